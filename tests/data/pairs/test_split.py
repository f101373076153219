"""Splits that cut no group apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.pairs.made import SHARED, make_pairs

from clinical_clip.data.pairs import Pair, PairSet, open_pairs
from clinical_clip.data.pairs.split import (
    apply_splits,
    drop_shared,
    group_of,
    group_split,
    overlaps,
    read_splits,
    write_splits,
)
from clinical_clip.errors import ManifestError, OptionError

GROUPS = st.lists(
    st.tuples(
        st.sampled_from(["", "PMC1", "PMC2", "PMC3", "é", "p-7"]),
        st.sampled_from(["train", "validation", "test"]),
    ),
    min_size=1,
    max_size=40,
)


def pair_set(rows: list[tuple[str, str]]) -> PairSet:
    return PairSet(
        name="rows",
        pairs=tuple(
            Pair(pair_id=str(number), image=Path(), caption="x", article=group, split=split)
            for number, (group, split) in enumerate(rows)
        ),
    )


def shared(pairs: PairSet) -> int:
    return sum(one.shared for one in overlaps(pairs, {pair.pair_id: group_of(pair) for pair in pairs}))


@given(GROUPS, st.integers(), st.floats(0, 0.45), st.floats(0, 0.45))
def test_no_group_is_cut_apart(
    rows: list[tuple[str, str]], seed: int, validation: float, test: float
) -> None:
    new = group_split(pair_set(rows), validation=validation, test=test, seed=seed)
    assert shared(new) == 0
    assert [pair.pair_id for pair in new] == [str(number) for number in range(len(rows))]


@given(GROUPS, GROUPS, st.integers(0, 5))
def test_new_rows_move_no_old_one(old: list[tuple[str, str]], more: list[tuple[str, str]], seed: int) -> None:
    before = {pair.pair_id: pair.split for pair in group_split(pair_set(old), seed=seed)}
    after = {pair.pair_id: pair.split for pair in group_split(pair_set(old + more), seed=seed)}
    assert before == {name: after[name] for name in before}


def test_a_larger_share_takes_from_train_alone() -> None:
    pairs = pair_set([(f"g{number}", "train") for number in range(500)])
    small, large = group_split(pairs, test=0.1), group_split(pairs, test=0.3)
    for one, two in zip(small, large, strict=True):
        assert one.split == two.split or (one.split, two.split) == ("train", "test")


def test_shares_and_seeds() -> None:
    pairs = pair_set([(f"g{number}", "train") for number in range(4000)])
    new = group_split(pairs, validation=0.1, test=0.2, seed=1)
    assert abs(len(new.split("test")) - 800) < 4 * (4000 * 0.2 * 0.8) ** 0.5
    assert abs(len(new.split("validation")) - 400) < 4 * (4000 * 0.1 * 0.9) ** 0.5
    other = group_split(pairs, validation=0.1, test=0.2, seed=2)
    assert [pair.split for pair in new] != [pair.split for pair in other]


def test_the_split_is_the_same_for_ever() -> None:
    """Numbers written down once: a change of the hash would silently move patients."""
    pairs = pair_set([(f"PMC{number}", "") for number in range(12)])
    places = {pair.article: pair.split for pair in group_split(pairs, validation=0.3, test=0.3)}
    assert {name for name, split in places.items() if split == "test"} == {"PMC3", "PMC6"}
    assert {name for name, split in places.items() if split == "validation"} == {"PMC5", "PMC9"}


@given(GROUPS)
def test_the_kept_split_stays_whole(rows: list[tuple[str, str]]) -> None:
    pairs = pair_set(rows)
    new = drop_shared(pairs)
    assert shared(new) == 0
    assert [pair for pair in new if pair.split == "test"] == [pair for pair in pairs if pair.split == "test"]
    dropped = {pair.pair_id for pair in pairs} - {pair.pair_id for pair in new}
    in_test = {group_of(pair) for pair in pairs if pair.split == "test"}
    in_validation = {group_of(pair) for pair in pairs if pair.split == "validation"}
    for pair in pairs:
        if pair.pair_id in dropped:
            assert group_of(pair) in (in_test if pair.split == "validation" else in_test | in_validation)


def test_overlaps_by_hand() -> None:
    pairs = pair_set(
        [("a", "train"), ("a", "train"), ("b", "train"), ("a", "test"), ("c", "test"), ("b", "x")]
    )
    found = {(one.first, one.second): one for one in overlaps(pairs, {p.pair_id: p.article for p in pairs})}
    one = found["train", "test"]
    assert (one.shared, one.first_pairs, one.second_pairs, one.second_total) == (1, 2, 1, 2)
    assert found["train", "x"].shared == 1
    assert found["test", "x"].shared == 0


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), (-0.1, 0.1), (1.0, 0.0), (0.1, float("nan"))])
def test_shares_outside_their_range(validation: float, test: float) -> None:
    with pytest.raises(OptionError):
        group_split(pair_set([("a", "")]), validation=validation, test=test)


def test_a_written_split_is_used_when_opening(tmp_path: Path) -> None:
    pairs = group_split(make_pairs(tmp_path, 12), validation=0.3, test=0.3)
    write_splits(pairs, tmp_path / "splits.csv")
    splits = read_splits(tmp_path / "splits.csv")
    assert splits == {pair.pair_id: pair.split for pair in pairs}
    plain = replace(pairs, pairs=tuple(replace(pair, split="") for pair in pairs))
    assert apply_splits(plain, splits) == pairs
    with pytest.raises(ManifestError, match="splits of other pairs"):
        apply_splits(plain, {"else": "train"})


def test_a_split_file_names_no_group(tmp_path: Path) -> None:
    write_splits(pair_set([("patient-7", "test")]), tmp_path / "splits.csv")
    assert (tmp_path / "splits.csv").read_text() == "pair_id,split\n0,test\n"


@pytest.mark.parametrize(("rows", "what"), [("a,\n", "without id and split"), ("a,x\na,y\n", "two splits")])
def test_bad_split_files(tmp_path: Path, rows: str, what: str) -> None:
    (tmp_path / "s.csv").write_text("pair_id,split\n" + rows)
    with pytest.raises(ManifestError, match=what):
        read_splits(tmp_path / "s.csv")


def test_real_roco_made_article_disjoint(real_roco: PairSet, tmp_path: Path) -> None:
    assert shared(real_roco) == 1195
    kept = drop_shared(real_roco)
    assert (shared(kept), len(kept.split("test"))) == (0, 8179)
    write_splits(kept, tmp_path / "splits.csv")
    only = open_pairs(SHARED / "roco", require_images=False, splits=tmp_path / "splits.csv", split="val")
    assert only.digest == kept.split("validation").digest
