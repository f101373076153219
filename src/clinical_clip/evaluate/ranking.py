"""Rankings of a gallery for many queries at once, in chunks, never queries x gallery in memory.

Shape suffixes: Q queries of one chunk, N gallery items, B items of one block of the gallery, D width.

A gallery item is known by its position, and equal scores are ordered by position. Who arranges the gallery
in the order of its ids therefore gets ties broken by id, whatever the chunk size or number of threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from clinical_clip.errors import VectorError

__all__ = ["Ranked", "Scorer", "cosine_scorer", "members_by_code", "random_scorer", "rank", "sort_keys"]

Scorer = Callable[[NDArray[np.intp], slice], NDArray[np.float32]]
"""Positions of Q queries and a block of the gallery in, their scores (Q, B) out; greater is nearer."""

_EXCLUDED = np.uint64(np.iinfo(np.uint64).max)
_POSITION_BITS = np.uint64(32)
_POSITION_MASK = np.uint64(0xFFFFFFFF)
_SCORE_GRID = 2.0**28
_BLOCK = 4096
_CHUNK_BYTES = 128 * 2**20
_WORKERS = min(4, os.cpu_count() or 1)


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


def sort_keys(score_QB: NDArray[np.float32], first: int = 0) -> NDArray[np.uint64]:
    """Keys (Q, B) uint64 whose ascending order is "score descending, then position ascending".

    The upper half of a key is the float's bit pattern mapped so that greater floats come first, the lower
    half is the position, counted from ``first``: every key differs, so any sort gives the same order.

    >>> keys = sort_keys(np.array([[0.5, -1.0, 0.5, 0.0, -0.0]], dtype=np.float32))
    >>> (np.sort(keys) & np.uint64(0xFFFFFFFF)).tolist()
    [[0, 2, 3, 4, 1]]
    """
    bits = (score_QB + np.float32(0.0)).view(np.int32)  # adding 0 turns -0.0 into 0.0
    descending = bits ^ (~(bits >> 31) & np.int32(0x7FFFFFFF))
    keys = descending.view(np.uint32).astype(np.uint64)
    keys <<= _POSITION_BITS
    keys |= np.arange(first, first + score_QB.shape[1], dtype=np.uint64)
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
    """Rank a gallery of ``size`` items for every query, chunk by chunk, some chunks ahead in threads.

    Args:
        scorer: gives the scores of some queries for a block of the gallery.
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
    chunks = [query_Q[start : start + rows] for start in range(0, len(query_Q), rows)]

    def one(chunk_Q: NDArray[np.intp]) -> Ranked:
        keys_QN = _keys(scorer, chunk_Q, size)
        eligible_Q = np.full(len(chunk_Q), size - 1, dtype=np.int64)
        for row, query in enumerate(chunk_Q):
            keys_QN[row, query] = _EXCLUDED
            if exclusion_N is not None and exclusion_N[query] >= 0:
                group = members[exclusion_N[query]]
                keys_QN[row, group] = _EXCLUDED
                eligible_Q[row] = size - len(group)
        keys_QN.sort(axis=1)
        keys_QN &= _POSITION_MASK
        np.minimum(keys_QN, np.uint64(max(0, size - 1)), out=keys_QN)  # excluded keys point past the end
        return Ranked(query_Q=chunk_Q, order_QN=keys_QN.view(np.int64), eligible_Q=eligible_Q)

    yield from _ahead(one, chunks)


def _keys(scorer: Scorer, query_Q: NDArray[np.intp], size: int) -> NDArray[np.uint64]:
    keys_QN = np.empty((len(query_Q), size), dtype=np.uint64)
    for start in range(0, size, _BLOCK):
        block = slice(start, min(size, start + _BLOCK))
        score_QB = scorer(query_Q, block)
        if not np.isfinite(score_QB).all():
            raise VectorError("scores are not finite", where="ranking", hint="look for NaN in the vectors")
        keys_QN[:, block] = sort_keys(score_QB, start)
    return keys_QN


def _ahead(
    work: Callable[[NDArray[np.intp]], Ranked], chunks: list[NDArray[np.intp]], workers: int = _WORKERS
) -> Iterator[Ranked]:
    """Results in order, at most ``workers`` of them computed before they are asked for."""
    waiting: deque[Future[Ranked]] = deque()
    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            for chunk in chunks:
                waiting.append(pool.submit(work, chunk))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def cosine_scorer(vectors_ND: NDArray[np.floating]) -> Scorer:
    """Scores of L2-normalised vectors: their inner product in float64, rounded, as float32 (Q, B).

    BLAS adds in another order at the edges of its blocks, so that in float32 two identical gallery vectors
    may score a last bit apart and lose their order by id. In float64, rounded to a grid of 2**-28, they tie.
    The scores are multiples of that grid, which rank like the cosines themselves.
    """

    def scores(query_Q: NDArray[np.intp], block: slice) -> NDArray[np.float32]:
        score_QB = vectors_ND[query_Q].astype(np.float64) @ vectors_ND[block].astype(np.float64).T
        score_QB *= _SCORE_GRID
        np.rint(score_QB, out=score_QB)
        return score_QB.astype(np.float32)  # still on the grid's scale, which ranks alike

    return scores


def random_scorer(*, seed: int) -> Scorer:
    """Uniform random scores, a hash of seed, query and gallery item: no chunk or block changes them.

    The hash is the finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014), applied once a part.
    """

    def scores(query_Q: NDArray[np.intp], block: slice) -> NDArray[np.float32]:
        start = _mix(np.array([seed], dtype=np.uint64))
        query_Q1 = _mix(start ^ query_Q.astype(np.uint64))[:, None]
        item_B = np.arange(block.start, block.stop, dtype=np.uint64)
        return ((_mix(query_Q1 ^ item_B) >> np.uint64(40)).astype(np.float32)) * np.float32(2.0**-24)

    return scores


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
