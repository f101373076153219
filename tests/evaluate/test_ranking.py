"""Rankings against plain sorting, written without the code under test."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clinical_clip.errors import VectorError
from clinical_clip.evaluate.ranking import cosine_scorer, members_by_code, random_scorer, rank, sort_keys
from clinical_clip.evaluate.vectors import normalise

SCORES = hnp.arrays(np.int8, (4, 9), elements=st.integers(-4, 4))


def ranked_lists(score_QN, exclusion_N=None, chunk_bytes=1 << 20):
    """Retrieved positions of the first Q items as queries, through ``rank``."""
    score_QN = np.asarray(score_QN, dtype=np.float32)
    queries = np.arange(len(score_QN))
    chunks = rank(
        lambda rows, block: score_QN[rows, block],
        queries,
        score_QN.shape[1],
        exclusion_N=exclusion_N,
        chunk_bytes=chunk_bytes,
    )
    return [
        [int(p) for p in order[:eligible]]
        for chunk in chunks
        for order, eligible in zip(chunk.order_QN, chunk.eligible_Q, strict=True)
    ]


def plain_lists(score_QN, exclusion_N=None):
    lists = []
    for query, scores in enumerate(score_QN):
        allowed = [
            i
            for i in range(len(scores))
            if i != query
            and (exclusion_N is None or exclusion_N[query] < 0 or exclusion_N[i] != exclusion_N[query])
        ]
        lists.append(sorted(allowed, key=lambda i: (-float(scores[i]), i)))
    return lists


@given(scores=SCORES, exclusion=st.lists(st.integers(-1, 2), min_size=9, max_size=9))
def test_order_with_many_ties_is_that_of_plain_sorting(scores, exclusion):
    codes = np.array(exclusion)
    assert ranked_lists(scores) == plain_lists(scores)
    assert ranked_lists(scores, codes) == plain_lists(scores, codes)


@given(scores=SCORES, exclusion=st.lists(st.integers(-1, 2), min_size=9, max_size=9))
def test_a_query_and_its_group_are_never_in_its_gallery(scores, exclusion):
    codes = np.array(exclusion)
    for query, found in enumerate(ranked_lists(scores, codes)):
        assert query not in found
        assert codes[query] < 0 or codes[query] not in codes[found]


@given(scores=SCORES, shift=st.integers(-64, 64), power=st.integers(-6, 6))
def test_shift_and_scale_of_scores_change_nothing(scores, shift, power):
    # powers of two and small integers stay exact in float32, so that no tie is made or broken
    moved = (scores.astype(np.float32) + np.float32(shift)) * np.float32(2.0**power)
    assert ranked_lists(moved) == ranked_lists(scores)


def test_scores_that_are_all_negative_are_ranked_like_any_other():
    scores = -np.random.default_rng(3).random((5, 12)).astype(np.float32) - 0.1
    assert ranked_lists(scores) == plain_lists(scores)
    assert all(len(found) == 11 for found in ranked_lists(scores))


def test_chunks_do_not_change_the_result():
    scores = np.random.default_rng(5).integers(-3, 3, (30, 40)).astype(np.float32)
    codes = np.random.default_rng(6).integers(-1, 8, 40)
    whole = ranked_lists(scores, codes)
    assert all(ranked_lists(scores, codes, chunk_bytes=size) == whole for size in (1, 40 * 8 * 7, 1 << 30))


def test_every_prefix_is_that_of_the_longer_list():
    scores = np.random.default_rng(8).integers(-2, 3, (10, 60)).astype(np.float32)
    for found in ranked_lists(scores):
        assert found[:5] == found[:15][:5]


def test_signed_zeros_tie():
    keys = sort_keys(np.array([[-0.0, 0.0, -0.0]], dtype=np.float32))
    assert (np.sort(keys) & np.uint64(0xFFFFFFFF)).tolist() == [[0, 1, 2]]


@settings(max_examples=30)
@given(size=st.integers(2, 120), width=st.integers(1, 70), seed=st.integers(0, 1000))
def test_identical_vectors_tie_by_position_wherever_they_stand(size, width, seed):
    rng = np.random.default_rng(seed)
    base = normalise(rng.standard_normal((3, width)) + 1e-3, ["a", "b", "c"])
    kind = rng.integers(0, 3, size)
    vectors = base[kind]
    for chunk in rank(cosine_scorer(vectors), np.arange(size), size):
        for order, eligible in zip(chunk.order_QN, chunk.eligible_Q, strict=True):
            found = order[:eligible]
            for one in range(3):
                positions = found[kind[found] == one]
                assert (np.diff(positions) > 0).all()


def test_cosines_agree_with_numpy_across_blocks():
    vectors = normalise(np.random.default_rng(1).standard_normal((8200, 6)), [str(i) for i in range(8200)])
    rows = np.array([0, 8191, 8192, 8199])
    expected = vectors[rows].astype(np.float64) @ vectors.astype(np.float64).T
    scorer = cosine_scorer(vectors)
    found = np.hstack([scorer(rows, slice(0, 5000)), scorer(rows, slice(5000, 8200))]) / 2.0**28
    assert np.abs(found - expected).max() < 1e-7


def test_random_scores_belong_to_query_and_item_not_to_chunk_or_block():
    scorer, whole = random_scorer(seed=7), slice(0, 50)
    together = scorer(np.arange(6), whole)
    assert np.array_equal(together[4:5, 20:30], scorer(np.array([4]), slice(20, 30)))
    assert not np.array_equal(together[0], together[1])
    assert not np.array_equal(together, random_scorer(seed=8)(np.arange(6), whole))


def test_random_scores_are_uniform_and_their_order_is_independent_of_the_query():
    scores = random_scorer(seed=3)(np.arange(400), slice(0, 500))
    assert np.histogram(scores, bins=10, range=(0, 1))[0] == pytest.approx(np.full(10, 20_000), rel=0.03)
    assert np.abs(np.corrcoef(scores[:40])[~np.eye(40, dtype=bool)]).max() < 0.25
    assert np.abs(np.corrcoef(scores.T[:40])[~np.eye(40, dtype=bool)]).max() < 0.25


def test_an_error_in_a_later_chunk_is_raised_and_ends_the_ranking():
    scores = np.zeros((50, 50), dtype=np.float32)
    scores[49, 3] = np.inf
    with pytest.raises(VectorError):
        ranked_lists(scores, chunk_bytes=1)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(VectorError, match="finite"):
        ranked_lists(np.array([[0.0, np.nan]]))


def test_members_of_no_code():
    assert members_by_code(np.array([-1, -1])) == []
    assert members_by_code(np.array([], dtype=int)) == []
