"""Rankings of a gallery for many queries at once, in chunks, never queries x gallery in memory.

Shape suffixes: Q queries of one chunk, N gallery items, D width of a vector.

A gallery item is known by its position, and equal scores are ordered by position. Who arranges the gallery
in the order of its ids therefore gets ties broken by id, whatever the chunk size or number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from clinical_clip.errors import VectorError

__all__ = ["Ranked", "Scorer", "cosine_scorer", "members_by_code", "random_scorer", "rank", "sort_keys"]

Scorer = Callable[[NDArray[np.intp]], NDArray[np.float32]]
"""Positions of Q queries in, their scores for the whole gallery (Q, N) float32 out, greater is nearer."""

_EXCLUDED = np.uint64(np.iinfo(np.uint64).max)
_POSITION_BITS = np.uint64(32)
_POSITION_MASK = np.uint64(0xFFFFFFFF)
_SCORE_GRID = 2.0**28
_BLOCK = 8192
_CHUNK_BYTES = 96 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """The full ranking of one chunk of queries.

    Attributes:
        query_Q: positions of the queries in the gallery.
        order_QN: gallery positions, nearest first; what may not be retrieved stands at the end.
        eligible_Q: how many of each row may be retrieved; the first ``eligible_Q[i]`` of row i count.
    """

    query_Q: NDArray[np.intp]
    order_QN: NDArray[np.intp]
    eligible_Q: NDArray[np.int64]


def sort_keys(score_QN: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Keys (Q, N) uint64 whose ascending order is "score descending, then position ascending".

    The upper half of a key is the float's bit pattern mapped so that greater floats come first, the lower
    half is the position: every key differs, so any sorting algorithm gives the same order.

    >>> keys = sort_keys(np.array([[0.5, -1.0, 0.5, 0.0, -0.0]], dtype=np.float32))
    >>> (np.sort(keys) & np.uint64(0xFFFFFFFF)).tolist()
    [[0, 2, 3, 4, 1]]
    """
    bits = (score_QN + np.float32(0.0)).view(np.int32)  # adding 0 turns -0.0 into 0.0
    descending = bits ^ (~(bits >> 31) & np.int32(0x7FFFFFFF))
    keys = descending.view(np.uint32).astype(np.uint64)
    keys <<= _POSITION_BITS
    keys |= np.arange(score_QN.shape[1], dtype=np.uint64)
    return keys


def members_by_code(code_N: NDArray[np.integer]) -> list[NDArray[np.intp]]:
    """Positions of each code 0..max, in order; negative codes belong to no list.

    >>> [m.tolist() for m in members_by_code(np.array([1, 0, -1, 1]))]
    [[1], [0, 3]]
    """
    if not code_N.size or code_N.max() < 0:
        return []
    order = np.argsort(code_N, kind="stable")
    bounds = np.searchsorted(code_N[order], np.arange(code_N.max() + 2))
    return [order[a:b] for a, b in pairwise(bounds)]


def rank(
    scorer: Scorer,
    query_Q: NDArray[np.intp],
    size: int,
    *,
    exclusion_N: NDArray[np.integer] | None = None,
    chunk_bytes: int = _CHUNK_BYTES,
) -> Iterator[Ranked]:
    """Rank a gallery of ``size`` items for every query, chunk by chunk.

    Args:
        scorer: gives the scores of some queries, by position.
        query_Q: positions of the queries in the gallery.
        size: number of gallery items N, below 2**32 - 1.
        exclusion_N: codes of the group or source; a query's gallery lacks all items of its code. A negative
            code excludes nothing. A query is never in its own gallery, with or without codes.
        chunk_bytes: bound on the (Q, N) uint64 keys of a chunk; the result does not depend on it.

    Raises:
        VectorError: a score is not finite.
    """
    members = members_by_code(exclusion_N) if exclusion_N is not None else []
    rows = max(1, chunk_bytes // (8 * max(1, size)))
    for start in range(0, len(query_Q), rows):
        chunk_Q = query_Q[start : start + rows]
        score_QN = scorer(chunk_Q)
        if not np.isfinite(score_QN).all():
            raise VectorError("scores are not finite", where="ranking", hint="look for NaN in the vectors")
        keys_QN = sort_keys(score_QN)
        del score_QN
        eligible_Q = np.full(len(chunk_Q), size - 1, dtype=np.int64)
        for row, query in enumerate(chunk_Q):
            keys_QN[row, query] = _EXCLUDED
            if exclusion_N is not None and exclusion_N[query] >= 0:
                group = members[exclusion_N[query]]
                keys_QN[row, group] = _EXCLUDED
                eligible_Q[row] = size - len(group)
        keys_QN.sort(axis=1)
        last = np.uint64(max(0, size - 1))  # excluded keys point past the end: clip them into the gallery
        order_QN = np.minimum(keys_QN & _POSITION_MASK, last).astype(np.intp)
        yield Ranked(query_Q=chunk_Q, order_QN=order_QN, eligible_Q=eligible_Q)


def cosine_scorer(vectors_ND: NDArray[np.floating]) -> Scorer:
    """Scores of L2-normalised vectors: their inner product, computed in float64 and given as float32.

    BLAS adds in another order at the edges of its blocks, so that in float32 two identical gallery vectors
    may score a last bit apart and lose their order by id. In float64, rounded to a grid of 2**-28, they tie.
    """

    def scores(query_Q: NDArray[np.intp]) -> NDArray[np.float32]:
        query_QD = vectors_ND[query_Q].astype(np.float64)
        out_QN = np.empty((len(query_Q), len(vectors_ND)), dtype=np.float32)
        for start in range(0, len(vectors_ND), _BLOCK):
            block = query_QD @ vectors_ND[start : start + _BLOCK].astype(np.float64).T
            block *= _SCORE_GRID
            np.rint(block, out=block)
            block *= 1.0 / _SCORE_GRID
            out_QN[:, start : start + _BLOCK] = block
        return out_QN

    return scores


def random_scorer(size: int, *, seed: int) -> Scorer:
    """Uniform random scores; each query has its own stream, so chunks do not change them."""

    def scores(query_Q: NDArray[np.intp]) -> NDArray[np.float32]:
        rows = [np.random.default_rng([seed, int(query)]).random(size, dtype=np.float32) for query in query_Q]
        return np.stack(rows)

    return scores
