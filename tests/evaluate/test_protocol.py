"""Galleries, counted by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinical_clip.errors import ManifestError, OptionError
from clinical_clip.evaluate.protocol import GalleryRule, MinRelevant, Protocol, gallery_counts
from clinical_clip.evaluate.table import Table

LABELS = (("modality",),)


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 3)), min_size=1, max_size=25),
    use=st.booleans(),
)
def test_counts_are_those_of_a_loop(rows, use):
    label, code = (np.array(column) for column in zip(*rows, strict=True))
    relevant, eligible = gallery_counts(label, code if use else None)
    for q in range(len(rows)):
        allowed = [
            i for i in range(len(rows)) if i != q and not (use and code[q] >= 0 and code[i] == code[q])
        ]
        assert eligible[q] == len(allowed)
        assert relevant[q] == sum(label[i] == label[q] for i in allowed)


@pytest.mark.parametrize(
    ("rule", "needed"), [(MinRelevant.NONE, 0), (MinRelevant.ONE, 1), (MinRelevant.MAX_K, 30)]
)
def test_relevant_items_needed(rule, needed):
    assert Protocol(labels=LABELS, min_relevant=rule).needed == needed


def test_cutoffs_are_sorted_and_distinct():
    assert Protocol(labels=LABELS, ks=(30, 5, 5)).ks == (5, 30)


@pytest.mark.parametrize(
    "bad",
    [{"ks": ()}, {"ks": (0,)}, {"ks": (5, -1)}, {"labels": ()}, {"replicates": -1}, {"seed": -1}],
    ids=str,
)
def test_what_cannot_be_measured_is_refused(bad):
    with pytest.raises(OptionError):
        Protocol(**({"labels": LABELS} | bad))


def test_exclusion_follows_the_rule():
    table = Table.of([("a", {"split_group": "g1", "site": "x"}), ("b", {"split_group": "", "site": "x"})])
    group = Protocol(labels=LABELS, gallery=GalleryRule.OTHER_GROUP)
    source = Protocol(labels=LABELS, gallery=GalleryRule.OTHER_SOURCE, source_column="site")
    assert Protocol(labels=LABELS).exclusion(table) is None
    assert group.exclusion(table).tolist() == [0, -1]
    assert source.exclusion(table).tolist() == [0, 0]
    with pytest.raises(ManifestError, match=r"no column 'source'.*site, split_group"):
        Protocol(labels=LABELS, gallery=GalleryRule.OTHER_SOURCE).exclusion(table)
