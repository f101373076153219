"""The matrix on disk: float16 rows, the slot of each, and a sidecar that says how much of them counts.

``vectors-<generation>.f16`` and ``slots-<generation>.i64`` only grow; ``matrix.json`` is replaced whole, and
what lies beyond the rows it counts does not exist. A removed row is zeroed and its slot made negative. All
of it is a cache: whatever is wrong with it is found by sizes and checksums and made anew from the catalogue.
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinical_clip.errors import IndexCorrupt
from clinical_clip.index import failpoints
from clinical_clip.index.protocol import Position, VectorRows
from clinical_clip.index.storage import fsync_folder, write_atomic, write_fully

__all__ = ["BLOCK_ROWS", "SIDECAR", "MatrixFile", "Sidecar"]

SIDECAR = "matrix.json"
BLOCK_ROWS = 4096
"""Rows under one checksum."""

_FORMAT = 1
_HINT = "it is made anew from the catalogue when the index is opened for writing, or by index rebuild"

Repair = Callable[[NDArray[np.int64]], VectorRows]
"""From slots to those of them that the catalogue still holds, ascending, and their vectors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sidecar:
    """What ``matrix.json`` holds.

    Attributes:
        deviation: the most that any stored row's norm is off 1.
        row_crcs, slot_crcs: CRC-32 of each block of rows, and of the absolute values of their slots. None
            stands for a block in which rows are being wiped: what a crash leaves there is written anew.
    """

    library_id: str
    width: int
    generation: int
    rows: int
    seq: int
    token: str
    deviation: float
    row_crcs: tuple[int | None, ...]
    slot_crcs: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """JSON with its own checksum."""
        body = {"format": _FORMAT, "block_rows": BLOCK_ROWS, **asdict(self)}
        return json.dumps({**body, "checksum": _checksum(body)}).encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Sidecar:
        """Read what ``to_bytes`` wrote.

        Raises:
            IndexCorrupt: not this format, or the checksum differs.
        """
        try:
            body: dict[str, Any] = json.loads(data)
            stated = body.pop("checksum")
            if stated != _checksum(body) or (body.pop("format"), body.pop("block_rows")) != (
                _FORMAT,
                BLOCK_ROWS,
            ):
                raise ValueError
            body.update({name: tuple(body[name]) for name in ("row_crcs", "slot_crcs")})
            return cls(**body)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise IndexCorrupt("the matrix's description is damaged", where=where, hint=_HINT) from None


def _checksum(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode("ascii"))


class MatrixFile:
    """One generation of the matrix, opened.

    Attributes:
        sidecar: what counts as stored.
        slots: int64 (N,), ascending in absolute value, negative where removed.
        rows_ND: float16 (N, D), mapped read-only.

    Raises (on opening):
        IndexCorrupt: a part is missing, too short, damaged, or of another index.
    """

    def __init__(self, folder: Path, *, library_id: str, width: int, writable: bool) -> None:
        self._folder = folder
        self.stamp = sidecar_stamp(folder)
        self.sidecar = _read_sidecar(folder, library_id, width)
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC
        self._rows_path, self._slots_path = _paths(folder, self.sidecar.generation)
        self._rows_fd = self._slots_fd = -1
        try:
            self._rows_fd = os.open(self._rows_path, flags)
            self._slots_fd = os.open(self._slots_path, flags)
            self._check_sizes()
            self._map()
            self._check_ends()
        except FileNotFoundError as error:
            self.close()
            name = Path(str(error.filename)).name
            raise IndexCorrupt("a file of the matrix is missing", where=name, hint=_HINT) from None
        except BaseException:
            self.close()
            raise

    @property
    def position(self) -> Position:
        """The commit up to which the matrix holds everything."""
        return Position(seq=self.sidecar.seq, token=self.sidecar.token)

    def _check_sizes(self) -> None:
        for descriptor, path, unit in (
            (self._rows_fd, self._rows_path, 2 * self.sidecar.width),
            (self._slots_fd, self._slots_path, 8),
        ):
            size, wanted = os.fstat(descriptor).st_size, self.sidecar.rows * unit
            if size < wanted:
                raise IndexCorrupt(
                    f"cut short: {size} bytes where {wanted} were written", where=path.name, hint=_HINT
                )

    def _map(self) -> None:
        rows, width = self.sidecar.rows, self.sidecar.width
        data = os.pread(self._slots_fd, rows * 8, 0)
        self.slots: NDArray[np.int64] = np.frombuffer(data, dtype="<i8").astype(np.int64)
        self.rows_ND: NDArray[np.float16] = np.empty((0, width), dtype=np.float16)
        if rows:
            with self._rows_path.open("rb") as file:  # a mapping of a writable file keeps its disk busy
                mapped = mmap.mmap(file.fileno(), rows * width * 2, prot=mmap.PROT_READ)
            self.rows_ND = np.frombuffer(mapped, dtype="<f2").reshape(rows, width)

    def _check_ends(self) -> None:
        """Checksums of all slots and of the last block: cheap, and what a torn write would hit."""
        last = len(self.sidecar.row_crcs) - 1
        for problem in (*self._slot_problems(), *(self._row_problems((last,)) if last >= 0 else ())):
            raise IndexCorrupt(problem, where=self._folder.name, hint=_HINT)

    def _slot_problems(self) -> Iterator[str]:
        held = np.abs(self.slots)
        for block, crc in enumerate(self.sidecar.slot_crcs):
            if _crc(held[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS]) != crc:
                yield f"{self._slots_path.name} differs from its checksum in block {block}"

    def _row_problems(self, blocks: Iterable[int]) -> Iterator[str]:
        for block in blocks:
            if not self._block_is_whole(block):
                yield f"{self._rows_path.name} differs from its checksum in block {block}"

    def _block_is_whole(self, block: int) -> bool:
        rows_BD = self.rows_ND[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS]
        return self.sidecar.row_crcs[block] in (None, _crc(rows_BD))

    def problems(self) -> list[str]:
        """Every block whose bytes differ from their checksum."""
        return [*self._slot_problems(), *self._row_problems(range(len(self.sidecar.row_crcs)))]

    def append(self, slots: NDArray[np.int64], vectors_ND: NDArray[np.float16], deviation: float) -> None:
        """Write rows after those that count, and sync them; ``save`` makes them count.

        Raises:
            OSError: the disk refuses; nothing counts then, and appending again is safe.
        """
        failpoints.reach("matrix.before-append")
        rows, width = self.sidecar.rows, self.sidecar.width
        data_ND, data_N = np.ascontiguousarray(vectors_ND, "<f2"), np.ascontiguousarray(slots, "<i8")
        half = len(data_N) // 2
        for part in (slice(0, half), slice(half, None)):
            at = rows + (part.start or 0)
            write_fully(self._rows_fd, _bytes(data_ND[part]), at * width * 2)
            write_fully(self._slots_fd, _bytes(data_N[part]), at * 8)
            failpoints.reach("matrix.half-appended")
        os.ftruncate(self._rows_fd, (rows + len(data_N)) * width * 2)
        os.ftruncate(self._slots_fd, (rows + len(data_N)) * 8)
        os.fdatasync(self._rows_fd)
        os.fdatasync(self._slots_fd)
        failpoints.reach("matrix.appended")
        self.sidecar = replace(
            self.sidecar,
            rows=rows + len(data_N),
            deviation=max(self.sidecar.deviation, deviation),
            row_crcs=_extend(self.sidecar.row_crcs, rows, data_ND),
            slot_crcs=_extend(self.sidecar.slot_crcs, rows, data_N),
        )
        self._map()

    def zero(self, rows_M: NDArray[np.int64], repair: Repair) -> None:
        """Wipe rows and mark their slots removed; ``save`` makes the new checksums count.

        The blocks are first declared to be in work, so that a crash in between is mended and not feared.
        """
        if not len(rows_M):
            return
        failpoints.reach("matrix.before-zero")
        blocks = np.unique(rows_M // BLOCK_ROWS).tolist()
        damaged = {block for block in blocks if not self._block_is_whole(block)}
        self._declare(dict.fromkeys(blocks))
        self.save(self.position)
        slots = self.slots.copy()
        slots[rows_M] = -np.abs(slots[rows_M])
        self._rewrite(blocks, slots, repair, damaged)

    def mend(self, repair: Repair) -> bool:
        """Write anew the blocks that a crash left in work. True where there were any."""
        blocks = [block for block, crc in enumerate(self.sidecar.row_crcs) if crc is None]
        if blocks:
            self._rewrite(blocks, self.slots.copy(), repair, set(blocks))
            self.save(self.position)
        return bool(blocks)

    def _rewrite(
        self, blocks: list[int], slots: NDArray[np.int64], repair: Repair, damaged: set[int]
    ) -> None:
        crcs: dict[int, int | None] = {}
        for block in blocks:
            low, high = block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, len(slots))
            block_BD, live_B = self.rows_ND[low:high].copy(), slots[low:high] > 0
            if block in damaged and live_B.any():
                held, vectors_ND = repair(slots[low:high][live_B])
                live_B &= np.isin(slots[low:high], held)
                slots[low:high][~live_B] = -np.abs(slots[low:high][~live_B])
                block_BD[live_B] = vectors_ND
            block_BD[~live_B] = 0
            write_fully(self._slots_fd, _bytes(slots[low:high].astype("<i8")), low * 8)
            failpoints.reach("matrix.half-zeroed")
            write_fully(self._rows_fd, _bytes(block_BD), low * self.sidecar.width * 2)
            crcs[block] = _crc(block_BD)
        os.fdatasync(self._slots_fd)
        os.fdatasync(self._rows_fd)
        failpoints.reach("matrix.zeroed")
        self.slots = slots
        self._declare(crcs)

    def _declare(self, crcs: Mapping[int, int | None]) -> None:
        row_crcs = list(self.sidecar.row_crcs)
        for block, crc in crcs.items():
            row_crcs[block] = crc
        self.sidecar = replace(self.sidecar, row_crcs=tuple(row_crcs))

    def save(self, position: Position) -> None:
        """Make what was appended and zeroed count, as of ``position``."""
        self.sidecar = replace(self.sidecar, seq=position.seq, token=position.token)
        write_atomic(self._folder / SIDECAR, self.sidecar.to_bytes(), step="sidecar")
        self.stamp = sidecar_stamp(self._folder)

    def close(self) -> None:
        """Close the files; rows that are still mapped stay readable to who holds them."""
        for descriptor in (self._rows_fd, self._slots_fd):
            if descriptor >= 0:
                os.close(descriptor)
        self._rows_fd = self._slots_fd = -1


def sidecar_stamp(folder: Path) -> tuple[int, int] | None:
    """Changes whenever the sidecar is replaced; None where there is none."""
    try:
        stat = (folder / SIDECAR).stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def write_generation(folder: Path, rows: Iterable[VectorRows], *, empty: Sidecar) -> Sidecar:
    """Write all ``rows`` as a new generation beside the old one, then switch to it by the sidecar.

    Args:
        folder: the index's folder.
        rows: batches of ascending slots and vectors.
        empty: the sidecar of the new generation, before any row.
    """
    rows_path, slots_path = _paths(folder, empty.generation)
    sidecar = empty
    failpoints.reach("rebuild.begun")
    with rows_path.open("wb") as rows_file, slots_path.open("wb") as slots_file:
        for slots, vectors_ND in rows:
            data_ND, data_N = np.ascontiguousarray(vectors_ND, "<f2"), np.ascontiguousarray(slots, "<i8")
            rows_file.write(_bytes(data_ND))
            slots_file.write(_bytes(data_N))
            sidecar = replace(
                sidecar,
                rows=sidecar.rows + len(data_N),
                deviation=max(sidecar.deviation, norm_deviation(data_ND)),
                row_crcs=_extend(sidecar.row_crcs, sidecar.rows, data_ND),
                slot_crcs=_extend(sidecar.slot_crcs, sidecar.rows, data_N),
            )
        failpoints.reach("rebuild.before-fsync")
        for file in (rows_file, slots_file):
            file.flush()
            os.fsync(file.fileno())
    fsync_folder(folder)
    failpoints.reach("rebuild.before-switch")
    write_atomic(folder / SIDECAR, sidecar.to_bytes(), step="sidecar")
    failpoints.reach("rebuild.switched")
    drop_others(folder, keep=empty.generation)
    return sidecar


def norm_deviation(vectors_ND: NDArray[np.float16]) -> float:
    """The most that any row's norm is off 1."""
    if not len(vectors_ND):
        return 0.0
    rows_ND = vectors_ND.astype(np.float32)
    norms_N = np.sqrt(np.einsum("nd,nd->n", rows_ND, rows_ND, dtype=np.float64))
    return float(np.abs(norms_N - 1).max())


def generations(folder: Path) -> list[int]:
    """The generations of which any file is there."""
    numbers = {
        int(path.stem.rpartition("-")[2])
        for pattern in ("vectors-*.f16", "slots-*.i64")
        for path in folder.glob(pattern)
        if path.stem.rpartition("-")[2].isdigit()
    }
    return sorted(numbers)


def drop_others(folder: Path, *, keep: int) -> None:
    """Unlink what a crash left of other generations. Who has them mapped keeps reading them."""
    for generation in generations(folder):
        if generation != keep:
            for path in _paths(folder, generation):
                path.unlink(missing_ok=True)


def _paths(folder: Path, generation: int) -> tuple[Path, Path]:
    return folder / f"vectors-{generation:06d}.f16", folder / f"slots-{generation:06d}.i64"


def _read_sidecar(folder: Path, library_id: str, width: int) -> Sidecar:
    try:
        data = (folder / SIDECAR).read_bytes()
    except FileNotFoundError:
        raise IndexCorrupt("the matrix's description is missing", where=SIDECAR, hint=_HINT) from None
    sidecar = Sidecar.from_bytes(data, where=SIDECAR)
    if (sidecar.library_id, sidecar.width) != (library_id, width):
        raise IndexCorrupt("the matrix belongs to another index", where=SIDECAR, hint=_HINT)
    return sidecar


def _bytes(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).data.cast("B") if array.size else memoryview(b"")


def _crc(array: NDArray[Any], start: int = 0) -> int:
    return zlib.crc32(_bytes(array), start)


def _extend(crcs: tuple[Any, ...], rows: int, added: NDArray[Any]) -> tuple[Any, ...]:
    """Checksums of blocks after ``added`` follows ``rows`` rows; the last block's goes on where it stood."""
    extended: list[Any] = list(crcs)
    at = 0
    while at < len(added):
        filled = (rows + at) % BLOCK_ROWS
        part = added[at : at + BLOCK_ROWS - filled]
        if filled:
            extended[-1] = _crc(part, extended[-1])
        else:
            extended.append(_crc(part))
        at += len(part)
    return tuple(extended)
