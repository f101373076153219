"""Retrieval metrics as pure functions over rank lists. Scores never enter, so their sign cannot matter.

Shape suffixes: Q queries, N ranks. ``relevance_QN`` is boolean, nearest first, and False beyond what a query
may retrieve. ``relevant_Q`` is the number of relevant items in a query's whole gallery. All results are
float64 (Q,) in [0, 1]. The conventions are those of trec_eval: a list shorter than K counts as padded with
misses, and a query without any relevant item scores 0 (a protocol may leave such queries out beforehand).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clinical_clip.errors import OptionError

__all__ = ["average_precision", "hit_at", "measure", "ndcg_at", "precision_at", "r_precision", "recall_at"]

Relevance = NDArray[np.bool_]
Counts = NDArray[np.integer]
Values = NDArray[np.float64]


def _hits(relevance_QN: Relevance, k: int) -> NDArray[np.int64]:
    if k < 1:
        raise OptionError(f"K must be at least 1, not {k}", where="k", hint="for example --k 5,10,30")
    return np.asarray(np.count_nonzero(relevance_QN[:, :k], axis=1), dtype=np.int64)


def precision_at(relevance_QN: Relevance, k: int) -> Values:
    """P@K: the share of the K nearest that are relevant.

    >>> precision_at(np.array([[True, False, True, True]]), 3).round(3).tolist()
    [0.667]
    """
    return _hits(relevance_QN, k) / k


def recall_at(relevance_QN: Relevance, relevant_Q: Counts, k: int) -> Values:
    """Recall@K: the share of all relevant items that stand among the K nearest.

    >>> recall_at(np.array([[True, False, True]]), np.array([4]), 3).tolist()
    [0.5]
    """
    return _hits(relevance_QN, k) / np.maximum(relevant_Q, 1)


def hit_at(relevance_QN: Relevance, k: int) -> Values:
    """Hit@K: 1 where any of the K nearest is relevant.

    >>> hit_at(np.array([[False, True], [False, False]]), 2).tolist()
    [1.0, 0.0]
    """
    return (_hits(relevance_QN, k) > 0).astype(np.float64)


def r_precision(relevance_QN: Relevance, relevant_Q: Counts) -> Values:
    """R-precision: precision at R, the query's own number of relevant items.

    >>> r_precision(np.array([[True, False, True]]), np.array([2])).tolist()
    [0.5]
    """
    row, rank = np.nonzero(relevance_QN)
    hits = np.bincount(row[rank < relevant_Q[row]], minlength=len(relevance_QN))
    return np.asarray(hits / np.maximum(relevant_Q, 1), dtype=np.float64)


def average_precision(relevance_QN: Relevance, relevant_Q: Counts) -> Values:
    """AP: the mean, over all relevant items, of the precision at each one's rank.

    >>> average_precision(np.array([[True, False, True]]), np.array([2])).round(4).tolist()
    [0.8333]
    """
    row, rank = np.nonzero(relevance_QN)
    found_Q = np.bincount(row, minlength=len(relevance_QN))
    first_Q = np.cumsum(found_Q) - found_Q
    precision = (np.arange(len(row)) - first_Q[row] + 1) / (rank + 1)
    total_Q = np.bincount(row, weights=precision, minlength=len(relevance_QN))
    return np.asarray(total_Q / np.maximum(relevant_Q, 1), dtype=np.float64)


def ndcg_at(relevance_QN: Relevance, relevant_Q: Counts, k: int) -> Values:
    """nDCG@K with binary gains and discount 1 / log2(rank + 1) (Järvelin & Kekäläinen 2002).

    >>> ndcg_at(np.array([[False, True]]), np.array([1]), 2).round(4).tolist()
    [0.6309]
    """
    _hits(relevance_QN[:0], k)
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    top_QK = relevance_QN[:, :k]
    ideal = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(relevant_Q, k)]
    gain = top_QK @ discount[: top_QK.shape[1]]
    return np.asarray(gain / np.where(ideal > 0, ideal, 1.0), dtype=np.float64)


def measure(relevance_QN: Relevance, relevant_Q: Counts, ks: tuple[int, ...]) -> dict[str, Values]:
    """Every metric by its name, the order of the names being that of the reports.

    >>> list(measure(np.array([[True]]), np.array([1]), (5,)))
    ['P@5', 'R-precision', 'mAP', 'nDCG@5', 'recall@5', 'hit@5']
    """
    return (
        {f"P@{k}": precision_at(relevance_QN, k) for k in ks}
        | {"R-precision": r_precision(relevance_QN, relevant_Q)}
        | {"mAP": average_precision(relevance_QN, relevant_Q)}
        | {f"nDCG@{k}": ndcg_at(relevance_QN, relevant_Q, k) for k in ks}
        | {f"recall@{k}": recall_at(relevance_QN, relevant_Q, k) for k in ks}
        | {f"hit@{k}": hit_at(relevance_QN, k) for k in ks}
    )
