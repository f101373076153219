"""The embedded engine: exact search over the mapped float16 matrix and the rows that are not in it yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinical_clip.errors import IndexCorrupt
from clinical_clip.index import failpoints, scan
from clinical_clip.index.matrix import (
    MatrixFile,
    Repair,
    Sidecar,
    drop_others,
    generations,
    norm_deviation,
    sidecar_stamp,
    write_generation,
)
from clinical_clip.index.protocol import Position, VectorRows
from clinical_clip.index.view import View

__all__ = ["ExactIndex"]


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
        self._view = View(
            mapped_ND=np.empty((0, width), np.float16),
            tail_ND=np.empty((0, width), np.float16),
            slots=np.empty(0, np.int64),
            count=0,
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
                drop_others(self._folder, keep=file.sidecar.generation)
        except BaseException:
            file.close()
            raise
        self.close()
        self._file = file
        self._buried = set()
        self._view = View(
            mapped_ND=file.rows_ND,
            tail_ND=np.empty((0, self.width), np.float16),
            slots=file.slots,
            count=int((file.slots > 0).sum()),
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
        return self._view.slots

    @property
    def count(self) -> int:
        return self._view.count

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
            slots=np.concatenate([view.slots, slots]),
            count=view.count + len(slots),
            deviation=max(view.deviation, norm_deviation(vectors_ND)),
        )

    def remove(self, slots: NDArray[np.int64]) -> None:
        view = self._view
        rows = self._rows_of(view, slots)
        rows = rows[view.slots[rows] > 0]
        if not len(rows):
            return
        slots_N = view.slots.copy()
        slots_N[rows] *= -1
        tail_ND = view.tail_ND
        in_tail = rows[rows >= len(view.mapped_ND)] - len(view.mapped_ND)
        if len(in_tail):
            tail_ND = tail_ND.copy()
            tail_ND[in_tail] = 0
        self._buried.update(rows[rows < len(view.mapped_ND)].tolist())
        self._view = replace(view, slots=slots_N, tail_ND=tail_ND, count=view.count - len(rows))

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
            held = view.slots[len(file.slots) :] > 0
            file.append(
                view.slots[len(file.slots) :][held], view.tail_ND[held], norm_deviation(view.tail_ND[held])
            )
        file.save(position)
        self._buried = set()
        self._view = replace(
            view,
            mapped_ND=file.rows_ND,
            tail_ND=np.empty((0, self.width), np.float16),
            slots=file.slots,
        )
        failpoints.reach("flush.done")

    def snapshot(self) -> View:
        return self._view

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
        self._view = View(
            mapped_ND=vectors_ND,
            tail_ND=np.empty((0, self.width), np.float16),
            slots=slots_N,
            count=len(slots_N),
            deviation=norm_deviation(vectors_ND),
            position=position,
        )

    def close(self) -> None:
        """Close the files. A search that runs goes on with what it has mapped."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @staticmethod
    def _rows_of(view: View, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of the slots that are held, in the order given."""
        held = np.abs(view.slots)
        at = np.searchsorted(held, slots)
        at_safe = np.minimum(at, max(len(held) - 1, 0))
        found = (at < len(held)) & (held[at_safe] == slots) if len(held) else np.zeros(len(slots), bool)
        rows: NDArray[np.int64] = at[found]
        return rows
