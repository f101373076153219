"""Exact nearest neighbours over float16 rows: a fast bounded pass, then float64 on what may be among the k.

The fast pass is off by a known bound, so every row that can belong to the answer is kept and scored again
in float64. The answer is that of float64 brute force over the stored vectors, whatever the data.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numkong
import numpy as np
from numpy.typing import NDArray

from clinical_clip.index.protocol import TieNames

__all__ = ["SCORE_STEP", "Segments", "batch_scores", "exact_top", "gather", "kernel_bound", "single_scores"]

SCORE_STEP = 1e-6
"""Scores are rounded to this step; equal ones are ordered by id."""

Segments = Sequence[NDArray[np.float16]]
"""Arrays (N_i, D) that count as one of (N, D): the mapped file and the rows not yet in it."""

_MOST_ROWS = 65_536
"""Rows that one thread scans in one go; a matrix is cut into equal parts of at most so many."""

_CHUNK_ROWS = 8_192
_BLOCKS = 64
_RESCORE_ROWS = 32_768


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pool(pid: int) -> ThreadPoolExecutor:
    """Threads for the kernel, which lets go of the interpreter lock; one pool a process (``pid``)."""
    return ThreadPoolExecutor(max_workers=_cores(), thread_name_prefix="scan")


def _equal_part(rows: int) -> int:
    """Rows a part, so that every core gets as many parts as the others: none waits for the last.

    >>> -(-82_000 // _equal_part(82_000)) % _cores()
    0
    """
    rounds = -(-rows // (_cores() * _MOST_ROWS))
    return max(1024, -(-rows // (_cores() * max(1, rounds))))


_memory = threading.local()


def _scratch(name: str, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """This thread's own memory (size,), kept for its next call: fresh memory costs a fault a page."""
    held = getattr(_memory, name, None)
    if held is None or len(held) < size:
        held = np.empty(size, dtype)
        setattr(_memory, name, held)
    return held[:size]


def kernel_bound(width: int) -> float:
    """Most that a float32 dot product of two unit vectors of ``width`` can be off, in any order of sums."""
    return 1.01 * (width + 2) * 2.0**-24


def single_scores(segments: Segments, query_D: NDArray[np.float64]) -> tuple[NDArray[np.float32], float]:
    """Approximate scores (N,) of one unit query, and the most that any of them is off.

    The scores are this thread's scratch memory: its next call overwrites them.
    The query is rounded to float16 for the kernel: the bound holds the length of what rounding left over.
    """
    query16_1D = query_D.astype(np.float16)[None, :]
    left_over = float(np.linalg.norm(query_D - query16_1D[0].astype(np.float64)))
    scores_N = _scratch("scores", sum(map(len, segments)), np.dtype(np.float32))

    def score(rows_ND: NDArray[np.float16], out_N: NDArray[np.float32]) -> None:
        dots_N = _scratch(
            "dots", len(rows_ND), np.dtype(np.float64)
        )  # the kernel's own type: others are slow
        numkong.cdist(query16_1D, rows_ND, "dot", out=dots_N[None, :])
        out_N[:] = dots_N

    jobs = []
    start = 0
    for rows_ND in segments:
        step = _equal_part(len(rows_ND))
        for at in range(0, len(rows_ND), step):
            part_ND = rows_ND[at : at + step]
            jobs.append((part_ND, scores_N[start : start + len(part_ND)]))
            start += len(part_ND)
    others = [_pool(os.getpid()).submit(score, *job) for job in jobs[1:]]
    score(*jobs[0])  # this thread works too, while the others wake up
    for other in others:
        other.result()
    return scores_N, left_over * 1.001 + kernel_bound(len(query_D))


def batch_scores(segments: Segments, queries_QD: NDArray[np.float64]) -> tuple[NDArray[np.float32], float]:
    """Approximate scores (Q, N) by matrix products in float32, and the most that any of them is off."""
    queries32_QD = queries_QD.astype(np.float32)
    scores_QN = np.empty((len(queries32_QD), sum(map(len, segments))), dtype=np.float32)
    start = 0
    for rows_ND in segments:
        for at in range(0, len(rows_ND), _CHUNK_ROWS):
            part_ND = rows_ND[at : at + _CHUNK_ROWS].astype(np.float32)
            np.matmul(queries32_QD, part_ND.T, out=scores_QN[:, start : start + len(part_ND)])
            start += len(part_ND)
    return scores_QN, 2 * kernel_bound(queries_QD.shape[1])


def gather(segments: Segments, rows_M: NDArray[np.int64]) -> NDArray[np.float16]:
    """Rows (M, D) at ascending positions ``rows_M`` of the segments taken as one."""
    parts = []
    start = 0
    for rows_ND in segments:
        low, high = np.searchsorted(rows_M, (start, start + len(rows_ND)))
        parts.append(rows_ND[rows_M[low:high] - start])
        start += len(rows_ND)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def exact_top(
    segments: Segments,
    query_D: NDArray[np.float64],
    candidates: tuple[NDArray[np.float32], float],
    k: int,
    *,
    rows_M: NDArray[np.int64] | None,
    slots_N: NDArray[np.int64],
    tie_names: TieNames,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Slots and rounded float64 cosines of the ``k`` best among approximately scored rows.

    Args:
        segments: the stored rows.
        query_D: unit query.
        candidates: approximate scores (N,) (or (M,) where ``rows_M`` says which rows they are), minus
            infinity for rows that must not be found, and the most that any is off.
        k: at least 1, at most the number of finite scores.
        rows_M: ascending positions of the scored rows, or None for all.
        slots_N: the slot of each row, negative where removed.
        tie_names: names equal scores are ordered by.
    """
    scores, bound = candidates
    cut = _kth_lower_bound(scores, k) - 2 * bound - 2 * SCORE_STEP
    kept_C = np.flatnonzero((scores >= cut) & (scores > -np.inf))
    rows_C = kept_C if rows_M is None else rows_M[kept_C]
    steps_C = _exact_steps(segments, query_D, rows_C)
    if len(steps_C) > k:
        kept = steps_C >= np.partition(steps_C, len(steps_C) - k)[len(steps_C) - k]
        rows_C, steps_C = rows_C[kept], steps_C[kept]
    slots_C = np.abs(slots_N[rows_C])
    order = _order(steps_C, slots_C, tie_names)[:k]
    return slots_C[order], np.clip(steps_C[order] * SCORE_STEP, -1.0, 1.0).round(6)


def _kth_lower_bound(scores_N: NDArray[np.float32], k: int) -> float:
    """At least ``k`` scores are this high: the k-th best of block maxima, or the k-th best itself."""
    whole = len(scores_N) // _BLOCKS * _BLOCKS
    if k * 4 < whole // _BLOCKS:
        maxima = scores_N[:whole].reshape(_BLOCKS, -1).max(axis=0)
        kth = float(np.partition(maxima, len(maxima) - k)[len(maxima) - k])
        if np.isfinite(kth):
            return kth
    return float(np.partition(scores_N, len(scores_N) - k)[len(scores_N) - k])


def _exact_steps(
    segments: Segments, query_D: NDArray[np.float64], rows_C: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Cosines (C,) in float64, as whole numbers of ``SCORE_STEP``."""
    cosines_C = np.empty(len(rows_C), dtype=np.float64)
    for at in range(0, len(rows_C), _RESCORE_ROWS):
        rows_CD = gather(segments, rows_C[at : at + _RESCORE_ROWS]).astype(np.float64)
        norms_C = np.sqrt(np.einsum("cd,cd->c", rows_CD, rows_CD))
        cosines_C[at : at + _RESCORE_ROWS] = (rows_CD @ query_D) / np.maximum(norms_C, 1e-12)
    return np.rint(cosines_C / SCORE_STEP)


def _order(
    steps_C: NDArray[np.float64], slots_C: NDArray[np.int64], tie_names: TieNames
) -> NDArray[np.int64]:
    """Positions by falling score; equal scores by name, which is looked up only where scores are equal."""
    order = np.argsort(-steps_C, kind="stable")
    sorted_C = steps_C[order]
    equal = sorted_C[1:] == sorted_C[:-1]
    if not equal.any():
        return order
    tied = order[np.append(equal, False) | np.insert(equal, 0, False)]
    names = dict(zip(tied.tolist(), tie_names(slots_C[tied]), strict=True))
    by_name = sorted(tied.tolist(), key=lambda at: (-steps_C[at], names[at]))
    order[np.append(equal, False) | np.insert(equal, 0, False)] = by_name
    return order
