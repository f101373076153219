"""Sentences of captions."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinical_clip.data.pairs import PairSet, sample_sentence, split_sentences


@pytest.mark.parametrize(
    ("caption", "sentences"),
    [
        ("", []),
        ("   ", []),
        ("No stop at all", ["No stop at all"]),
        ("One.", ["One."]),
        ("First one. Second one.", ["First one.", "Second one."]),
        ("See Fig. 1 for the mass.", ["See Fig. 1 for the mass."]),
        ("Shown (Figs. 2 and 3). No edema.", ["Shown (Figs. 2 and 3).", "No edema."]),
        ("A mass of 2.5 cm. Calcified.", ["A mass of 2.5 cm.", "Calcified."]),
        ("Cyst vs. abscess. Follow up.", ["Cyst vs. abscess.", "Follow up."]),
        ("Taken by J. Smith et al. in 2012. Normal.", ["Taken by J. Smith et al. in 2012.", "Normal."]),
        ("CT at 5 p.m. The mass grew.", ["CT at 5 p.m.", "The mass grew."]),
        ("Contrast i.v. 80 ml was given.", ["Contrast i.v. 80 ml was given."]),
        ("Dr. Miller read it. Agreed.", ["Dr. Miller read it.", "Agreed."]),
        ("Signs, e.g. Murphy, were positive.", ["Signs, e.g. Murphy, were positive."]),
        ("Is it a cyst? Yes! It is.", ["Is it a cyst?", "Yes!", "It is."]),
        ('He said "normal." Then he left.', ['He said "normal."', "Then he left."]),
        ("Effusion (arrow.) Lung is clear.", ["Effusion (arrow.)", "Lung is clear."]),
        ("(a). Axial view shows it. (b). Coronal.", ["(a). Axial view shows it.", "(b). Coronal."]),
        ("Slice no. 12 of the series. Clear.", ["Slice no. 12 of the series.", "Clear."]),
        ("The answer was no. The lungs are clear.", ["The answer was no.", "The lungs are clear."]),
        ("Lesion in segment V. Liver is normal.", ["Lesion in segment V. Liver is normal."]),
        (
            "approx. 3 cm in the left lobe. fever followed.",
            ["approx. 3 cm in the left lobe. fever followed."],
        ),
        ("Two\nlines. Next\tone.", ["Two lines.", "Next one."]),
        ("Wait... Nothing followed.", ["Wait...", "Nothing followed."]),
        ("x.y.z", ["x.y.z"]),
    ],
)
def test_cases(caption: str, sentences: list[str]) -> None:
    assert split_sentences(caption) == sentences


@given(st.text(alphabet=' .!?()abcABC1é\n"”', max_size=80))
def test_nothing_is_lost(caption: str) -> None:
    sentences = split_sentences(caption)
    assert " ".join(sentences) == " ".join(caption.split())
    assert all(one == one.strip() and one for one in sentences)


@given(st.text(max_size=60), st.integers())
def test_a_sample_is_one_of_the_sentences(caption: str, seed: int) -> None:
    one = sample_sentence(caption, random.Random(seed))
    assert one in (split_sentences(caption) or [caption])
    assert one == sample_sentence(caption, random.Random(seed))


def test_each_sentence_is_as_likely() -> None:
    rng = random.Random(0)
    counts = Counter(sample_sentence("First one. Second one. Third one.", rng) for _ in range(3000))
    assert len(counts) == 3
    assert min(counts.values()) > 900


def test_real_captions_are_cut_where_people_stop(real_roco: PairSet) -> None:
    captions = [pair.caption for pair in real_roco][::4]
    sentences = [one for caption in captions for one in split_sentences(caption)]
    assert " ".join(sentences) == " ".join(" ".join(captions).split())
    assert 1.2 < len(sentences) / len(captions) < 2.5
    assert sum(len(one.split()) < 2 for one in sentences) / len(sentences) < 0.02
    assert not any(one.endswith(("Fig.", "vs.", "Figs.", "Dr.")) for one in sentences if one not in captions)
