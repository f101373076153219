"""One moment of the embedded engine: rows, slots, and the search over them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clinical_clip.errors import OptionError
from clinical_clip.index import scan
from clinical_clip.index.protocol import Matches, Position, TieNames

__all__ = ["View"]

_GATHER_BELOW = 16
"""A mask that leaves less than one row in so many is gathered instead of scanned past."""

_BATCH_FROM = 4
"""From so many queries on, a matrix product beats one pass a query."""

_SCORE_BYTES = 1 << 28
"""Most memory for one block of a batch's scores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What a search sees: never changed, only replaced.

    Attributes:
        mapped_ND: float16, rows of the file.
        tail_ND: float16, rows that follow and are not in the file yet.
        slots: int64 (N,) ascending in absolute value, negative where removed.
        count: slots that are not removed.
        deviation: the most that any row's norm is off 1.
        position: the commit that it shows.
    """

    mapped_ND: NDArray[np.float16]
    tail_ND: NDArray[np.float16]
    slots: NDArray[np.int64]
    count: int
    deviation: float
    position: Position

    @property
    def segments(self) -> scan.Segments:
        """All rows."""
        return [self.mapped_ND, self.tail_ND] if len(self.tail_ND) else [self.mapped_ND]

    def search(
        self,
        queries_QD: NDArray[np.float64],
        k: int,
        *,
        mask: NDArray[np.bool_] | None = None,
        tie_names: TieNames,
    ) -> list[Matches]:
        """The ``k`` nearest of each unit query, as float64 brute force over the stored vectors finds them.

        Raises:
            OptionError: ``k`` below 1, or a mask of another length.
        """
        if k < 1:
            raise OptionError(f"k is {k}", where="k", hint="ask for at least one image")
        allowed = self._allowed(mask)
        eligible = len(self.slots) if allowed is None else int(np.count_nonzero(allowed))
        if not eligible:
            return [Matches(slots=np.empty(0, np.int64), scores=np.empty(0, np.float64))] * len(queries_QD)
        segments, rows_M = self.segments, None
        if allowed is not None and eligible * _GATHER_BELOW < len(self.slots):
            rows_M = np.flatnonzero(allowed)
            segments, allowed = [scan.gather(self.segments, rows_M)], None
        matches = []
        for query_D, (scores, bound) in _scored(segments, queries_QD, allowed):
            slots, cosines = scan.exact_top(
                self.segments,
                query_D,
                (scores, bound + self.deviation),
                min(k, eligible),
                rows_M=rows_M,
                slots_N=self.slots,
                tie_names=tie_names,
            )
            matches.append(Matches(slots=slots, scores=cosines))
        return matches

    def _allowed(self, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        if mask is not None and mask.shape != self.slots.shape:
            raise OptionError("the mask is not of this index", where="mask", hint="make it from its slots")
        if self.count == len(self.slots):
            return mask
        held = self.slots > 0
        return held if mask is None else mask & held


def _scored(
    segments: scan.Segments, queries_QD: NDArray[np.float64], allowed: NDArray[np.bool_] | None
) -> Iterable[tuple[NDArray[np.float64], tuple[NDArray[np.float32], float]]]:
    """Each query with its approximate scores, minus infinity where ``allowed`` says no, and their bound."""
    if len(queries_QD) < _BATCH_FROM:
        for query_D in queries_QD:
            scores_N, bound = scan.single_scores(segments, query_D)
            if allowed is not None:
                scores_N[~allowed] = -np.inf
            yield query_D, (scores_N, bound)
        return
    rows = sum(map(len, segments))
    step = max(1, _SCORE_BYTES // (4 * rows))
    for at in range(0, len(queries_QD), step):
        chunk_QD = queries_QD[at : at + step]
        scores_QN, bound = scan.batch_scores(segments, chunk_QD)
        if allowed is not None:
            scores_QN[:, ~allowed] = -np.inf
        for query_D, scores_N in zip(chunk_QD, scores_QN, strict=True):
            yield query_D, (scores_N, bound)
