"""Metrics against hand-computed cases and against ranx."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest

from clinical_clip.errors import OptionError
from clinical_clip.evaluate import metrics
from clinical_clip.evaluate.ranking import rank

RELEVANCE = np.array(
    [
        [True, False, True, True, False, False],
        [False, False, False, False, True, False],
        [False, False, False, False, False, False],
    ]
)
RELEVANT = np.array([3, 2, 0])


def test_by_hand():
    assert metrics.precision_at(RELEVANCE, 1).tolist() == [1, 0, 0]
    assert metrics.precision_at(RELEVANCE, 5).tolist() == [3 / 5, 1 / 5, 0]
    assert metrics.precision_at(RELEVANCE, 10).tolist() == [3 / 10, 1 / 10, 0]  # short lists: misses
    assert metrics.recall_at(RELEVANCE, RELEVANT, 3).tolist() == [2 / 3, 0, 0]
    assert metrics.hit_at(RELEVANCE, 5).tolist() == [1, 1, 0]
    assert metrics.r_precision(RELEVANCE, RELEVANT).tolist() == [2 / 3, 0, 0]
    expected = [(1 / 1 + 2 / 3 + 3 / 4) / 3, (1 / 5) / 2, 0]
    assert metrics.average_precision(RELEVANCE, RELEVANT) == pytest.approx(expected)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    first = (1 + 1 / math.log2(4) + 1 / math.log2(5)) / ideal
    second = (1 / math.log2(6)) / (1 + 1 / math.log2(3))
    assert metrics.ndcg_at(RELEVANCE, RELEVANT, 5) == pytest.approx([first, second, 0])


def test_a_perfect_ranking_scores_one_everywhere():
    relevance = np.array([[True] * 4 + [False] * 6])
    values = metrics.measure(relevance, np.array([4]), (2, 4))
    assert {name: v.tolist() for name, v in values.items() if not name.startswith("recall@2")} == {
        name: [1.0] for name in values if not name.startswith("recall@2")
    }
    assert values["recall@2"].tolist() == [0.5]


@pytest.mark.parametrize("k", [0, -3])
def test_k_below_one_is_refused(k):
    for function in (metrics.precision_at, metrics.hit_at):
        with pytest.raises(OptionError, match="at least 1"):
            function(RELEVANCE, k)
    with pytest.raises(OptionError, match="at least 1"):
        metrics.ndcg_at(RELEVANCE, RELEVANT, k)


@pytest.fixture(scope="module")
def ranx_evaluate():
    with pytest.MonkeyPatch.context() as patch:
        # compiling takes half a minute, interpreting a tenth of a second
        patch.setenv("NUMBA_DISABLE_JIT", "1")
        ranx = importlib.import_module("ranx")

    def evaluate(relevance_by_query, run_by_query, names):
        results = ranx.evaluate(
            ranx.Qrels(relevance_by_query), ranx.Run(run_by_query), names, return_mean=False
        )
        return {name: np.asarray(results[name]) for name in names}

    return evaluate


@pytest.mark.parametrize("case", ["any sign", "all negative", "ties"])
def test_agrees_with_ranx(case, ranx_evaluate):
    rng = np.random.default_rng(11)
    size, classes = 60, rng.integers(0, 4, 60)
    cosines = rng.uniform(-1, 1, (size, size)).astype(np.float32)
    if case == "all negative":
        cosines = -np.abs(cosines) - np.float32(0.01)
    if case == "ties":
        cosines = np.round(cosines * 3) / np.float32(3)
    run, qrels = {}, {}
    for query in range(size):
        others = [i for i in range(size) if i != query]
        # ranx leaves the order of ties open, so they are broken by id beforehand, in exact arithmetic
        order = sorted(others, key=lambda i: (-cosines[query, i], i))
        places = {item: place for place, item in enumerate(order)}
        scores = cosines[query] if case != "ties" else [-float(places.get(i, 0)) for i in range(size)]
        run[f"q{query:02}"] = {f"d{i:02}": float(scores[i]) for i in others}
        qrels[f"q{query:02}"] = {f"d{i:02}": 1 for i in others if classes[i] == classes[query]}
    names = ["precision@5", "precision@30", "r-precision", "map", "ndcg@10", "recall@10", "hit_rate@5"]
    expected = ranx_evaluate(qrels, run, names)

    found = {name: [] for name in names}
    for chunk in rank(
        lambda rows, block: cosines[rows, block], np.arange(size), size, chunk_bytes=size * 8 * 7
    ):
        relevance = classes[chunk.order_QN] == classes[chunk.query_Q, None]
        relevance &= np.arange(size) < chunk.eligible_Q[:, None]
        values = metrics.measure(relevance, relevance.sum(axis=1), (5, 10, 30))
        ours = ["P@5", "P@30", "R-precision", "mAP", "nDCG@10", "recall@10", "hit@5"]
        for name, own in zip(names, ours, strict=True):
            found[name].extend(values[own])
    for name in names:
        assert found[name] == pytest.approx(expected[name], abs=1e-12), name
