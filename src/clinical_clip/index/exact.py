"""The embedded engine: exact search over the mapped float16 matrix and the rows that are not in it yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinical_clip.errors import IndexCorrupt, OptionError
from clinical_clip.index import failpoints, scan
from clinical_clip.index.matrix import (
    MatrixFile,
    Repair,
    Sidecar,
    generations,
    norm_deviation,
    sidecar_stamp,
    write_generation,
)
from clinical_clip.index.protocol import Matches, Position, TieNames, VectorRows

__all__ = ["ExactIndex"]

_GATHER_BELOW = 8
"""A mask that leaves less than one row in so many is gathered instead of scanned past."""

_BATCH_FROM = 4
"""From so many queries on, a matrix product beats one pass a query."""

_SCORE_BYTES = 1 << 28
"""Most memory for one block of a batch's scores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _View:
    """What a search sees: never changed, only replaced."""

    mapped_ND: NDArray[np.float16]
    tail_ND: NDArray[np.float16]
    slots_N: NDArray[np.int64]
    live: int
    deviation: float
    position: Position

    @property
    def segments(self) -> scan.Segments:
        return [self.mapped_ND, self.tail_ND] if len(self.tail_ND) else [self.mapped_ND]


class ExactIndex:
    """``VectorIndex`` on one machine: cosine, exact, with filters as masks.

    Searching is safe from several threads while one thread follows the catalogue.

    Args:
        folder: the index's folder.
        library_id: refuses the matrix of another library.
        width: D.
        writable: this process holds the writer's lock.
        repair: live vectors as the catalogue holds them, to mend what a crash left half wiped.
    """

    def __init__(self, folder: Path, *, library_id: str, width: int, writable: bool, repair: Repair) -> None:
        self.width = width
        self._folder = folder
        self._library_id = library_id
        self._writable = writable
        self._repair = repair
        self._file: MatrixFile | None = None
        self._buried: set[int] = set()
        self._view = _View(
            mapped_ND=np.empty((0, width), np.float16),
            tail_ND=np.empty((0, width), np.float16),
            slots_N=np.empty(0, np.int64),
            live=0,
            deviation=0.0,
            position=Position(seq=0, token=""),
        )

    def load(self) -> None:
        """Open the files afresh and forget what is only in memory.

        Raises:
            IndexCorrupt: they are missing or damaged; ``rebuild`` makes them anew.
        """
        file = MatrixFile(
            self._folder, library_id=self._library_id, width=self.width, writable=self._writable
        )
        try:
            if self._writable:
                file.mend(self._repair)
        except BaseException:
            file.close()
            raise
        self.close()
        self._file = file
        self._buried = set()
        self._view = _View(
            mapped_ND=file.rows_ND,
            tail_ND=np.empty((0, self.width), np.float16),
            slots_N=file.slots,
            live=int((file.slots > 0).sum()),
            deviation=file.sidecar.deviation,
            position=file.position,
        )

    @property
    def stale(self) -> bool:
        """The files were replaced since they were opened."""
        return self._file is not None and sidecar_stamp(self._folder) != self._file.stamp

    @property
    def position(self) -> Position:
        return self._view.position

    @property
    def slots(self) -> NDArray[np.int64]:
        return self._view.slots_N

    @property
    def count(self) -> int:
        return self._view.live

    @property
    def generation(self) -> int:
        """Which generation of files is open; 0 where everything is in memory."""
        return self._file.sidecar.generation if self._file else 0

    @property
    def unwritten(self) -> int:
        """Rows that are found but not in the file yet."""
        return len(self._view.tail_ND)

    def upsert(self, slots: NDArray[np.int64], vectors_ND: NDArray[np.float16]) -> None:
        view = self._view
        self._view = replace(
            view,
            tail_ND=np.concatenate([view.tail_ND, vectors_ND]),
            slots_N=np.concatenate([view.slots_N, slots]),
            live=view.live + len(slots),
            deviation=max(view.deviation, norm_deviation(vectors_ND)),
        )

    def remove(self, slots: NDArray[np.int64]) -> None:
        view = self._view
        rows = self._rows_of(view, slots)
        rows = rows[view.slots_N[rows] > 0]
        if not len(rows):
            return
        slots_N = view.slots_N.copy()
        slots_N[rows] *= -1
        tail_ND = view.tail_ND
        in_tail = rows[rows >= len(view.mapped_ND)] - len(view.mapped_ND)
        if len(in_tail):
            tail_ND = tail_ND.copy()
            tail_ND[in_tail] = 0
        self._buried.update(rows[rows < len(view.mapped_ND)].tolist())
        self._view = replace(view, slots_N=slots_N, tail_ND=tail_ND, live=view.live - len(rows))

    def flush(self, position: Position) -> None:
        """Write what is only in memory. Where this process may not write, it stays in memory.

        Raises:
            OSError: the disk refuses. Nothing is lost: the rows stay in memory and in the catalogue.
        """
        view = replace(self._view, position=position)
        self._view = view
        file = self._file
        if file is None or not self._writable or file.position == position:
            return
        file.zero(np.array(sorted(self._buried), dtype=np.int64), self._repair)
        if len(view.tail_ND):
            held = view.slots_N[len(file.slots) :] > 0
            file.append(
                view.slots_N[len(file.slots) :][held], view.tail_ND[held], norm_deviation(view.tail_ND[held])
            )
        file.save(position)
        self._buried = set()
        self._view = replace(
            view,
            mapped_ND=file.rows_ND,
            tail_ND=np.empty((0, self.width), np.float16),
            slots_N=file.slots,
        )
        failpoints.reach("flush.done")

    def search(
        self,
        queries_QD: NDArray[np.float64],
        k: int,
        *,
        mask: NDArray[np.bool_] | None = None,
        tie_names: TieNames,
    ) -> list[Matches]:
        if k < 1:
            raise OptionError(f"k is {k}", where="k", hint="ask for at least one image")
        view = self._view
        allowed = None if view.live == len(view.slots_N) else view.slots_N > 0
        if mask is not None:
            if mask.shape != view.slots_N.shape:
                raise OptionError("the mask is not of this index", where="mask", hint="make it from slots")
            allowed = mask if allowed is None else mask & allowed
        eligible = len(view.slots_N) if allowed is None else int(np.count_nonzero(allowed))
        if not eligible or not len(queries_QD):
            nothing = Matches(slots=np.empty(0, np.int64), scores=np.empty(0, np.float64))
            return [nothing] * len(queries_QD)
        k = min(k, eligible)
        segments, rows_M = view.segments, None
        if allowed is not None and eligible * _GATHER_BELOW < len(view.slots_N):
            rows_M = np.flatnonzero(allowed)
            segments, allowed = [scan.gather(view.segments, rows_M)], None
        matches = []
        for query_D, (scores, bound) in _scored(segments, queries_QD, allowed):
            slots, cosines = scan.exact_top(
                view.segments,
                query_D,
                (scores, bound + view.deviation),
                k,
                rows_M=rows_M,
                slots_N=view.slots_N,
                tie_names=tie_names,
            )
            matches.append(Matches(slots=slots, scores=cosines))
        return matches

    def fetch(self, slots: NDArray[np.int64]) -> NDArray[np.float16]:
        view = self._view
        rows = self._rows_of(view, slots)
        if len(rows) != len(slots):
            raise IndexCorrupt("the matrix lacks a stored vector", where=self._folder.name, hint="rebuild it")
        order = np.argsort(rows)
        fetched_MD = np.empty((len(rows), self.width), np.float16)
        fetched_MD[order] = scan.gather(view.segments, rows[order])
        return fetched_MD

    def verify(self) -> list[str]:
        if self._file is None:
            return ["the matrix is in memory only: its files are missing or damaged and cannot be written"]
        problems = self._file.problems()
        others = [g for g in generations(self._folder) if g != self.generation]
        if others and self._writable:
            problems.append(f"files of {len(others)} other generations of the matrix are left over")
        return problems

    def rebuild(self, rows: Iterable[VectorRows], position: Position) -> None:
        if not self._writable:
            self._rebuild_in_memory(rows, position)
            return
        write_generation(
            self._folder,
            rows,
            empty=Sidecar(
                library_id=self._library_id,
                width=self.width,
                generation=max([0, *generations(self._folder)]) + 1,
                rows=0,
                seq=position.seq,
                token=position.token,
                deviation=0.0,
                row_crcs=(),
                slot_crcs=(),
            ),
        )
        self.load()

    def _rebuild_in_memory(self, rows: Iterable[VectorRows], position: Position) -> None:
        parts = list(rows)
        vectors_ND = np.concatenate([np.empty((0, self.width), np.float16), *(part[1] for part in parts)])
        slots_N = np.concatenate([np.empty(0, np.int64), *(part[0] for part in parts)])
        self.close()
        self._view = _View(
            mapped_ND=vectors_ND,
            tail_ND=np.empty((0, self.width), np.float16),
            slots_N=slots_N,
            live=len(slots_N),
            deviation=norm_deviation(vectors_ND),
            position=position,
        )

    def close(self) -> None:
        """Close the files. A search that runs goes on with what it has mapped."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @staticmethod
    def _rows_of(view: _View, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of the slots that are held, in the order given."""
        held = np.abs(view.slots_N)
        at = np.searchsorted(held, slots)
        at_safe = np.minimum(at, max(len(held) - 1, 0))
        found = (at < len(held)) & (held[at_safe] == slots) if len(held) else np.zeros(len(slots), bool)
        rows: NDArray[np.int64] = at[found]
        return rows


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
