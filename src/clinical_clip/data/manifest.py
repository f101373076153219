"""A manifest: a table whose rows name images and say what is known of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from clinical_clip.data.counts import SourceCounts
from clinical_clip.data.files import FileContent, Reader, readable_name
from clinical_clip.data.folder import unreadable
from clinical_clip.data.table import read_header_row, read_rows
from clinical_clip.errors import ImageRejected, ManifestError
from clinical_clip.types import FieldValue, ImageRecord, Patient, Rejection

__all__ = ["DEFAULT_COLUMNS", "Manifest", "ManifestColumns", "open_manifest"]

_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,14})")
_DECIMAL = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?")
_MAX_VALUE = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestColumns:
    """Which columns of a manifest are what; every other column becomes a field that is shown.

    Attributes:
        image: paths, relative to the image root.
        frame: frame, slice or page of a file that has several, from 0. May be absent or empty: then the
            frame policy chooses.
        patient: columns that tell patients apart, the best first; the first one present becomes the
            patient id. All of them are kept from what is shown.
        hidden: further columns that identify a person and are kept from what is shown.
        study: a column that groups images into studies.
    """

    image: str = "image"
    frame: str = "frame"
    patient: tuple[str, ...] = (
        "patient_id",
        "subject_id",
        "subject",
        "patient",
        "patient_or_study",
        "PatientID",
    )
    hidden: tuple[str, ...] = (
        "patient_name",
        "PatientName",
        "birth_date",
        "patient_birth_date",
        "PatientBirthDate",
        "accession_number",
        "AccessionNumber",
        "mrn",
        "MRN",
    )
    study: str = "study_uid"


DEFAULT_COLUMNS = ManifestColumns()
"""The columns that are looked for where none are named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A manifest that has been read once and found well formed.

    Attributes:
        path: of the table.
        image_root: the folder, resolved, that its paths are relative to and may not leave.
        columns: which of its columns are what.
        numeric: columns all of whose cells are numbers; their values are int or float, not str.
        n_rows: rows with or without a usable image.
    """

    path: Path
    image_root: Path
    columns: ManifestColumns
    numeric: frozenset[str]
    n_rows: int

    def scan(self, reader: Reader, counts: SourceCounts) -> Iterator[ImageRecord | Rejection]:
        """Records and rejections in the order of the rows.

        A row is an explicit choice: the frame policy bounds the frames of a file that a row names without
        a frame, but takes nothing away from a series whose slices have rows of their own.

        Raises:
            ManifestError: the table changed into something unreadable meanwhile.
        """
        seen: dict[tuple[str, int], int] = {}
        scan = _RowScan(self, reader)
        for line, cells in read_rows(self.path, self.columns.image):
            counts.files += 1
            try:
                records, n_left_out = scan.read(line, cells, seen)
                counts.used += 1
                counts.left_out += n_left_out
                counts.images += len(records)
                yield from records
            except _RowRejected as error:
                counts.rejected += 1
                yield error.rejection


class _RowRejected(Exception):
    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.what)
        self.rejection = rejection


def open_manifest(
    path: Path, *, image_root: Path | None = None, columns: ManifestColumns = DEFAULT_COLUMNS
) -> Manifest:
    """Read the whole table once, so that what is wrong with it shows before any image is read.

    Args:
        path: CSV (comma, semicolon, tab or bar, UTF-8 with or without a BOM), TSV or Parquet.
        image_root: what the paths are relative to; the table's own folder where None.
        columns: which columns are what.

    Raises:
        ManifestError: naming file, line and column.
        MissingDependency: Parquet without pyarrow.
    """
    root = image_root if image_root is not None else path.parent
    if not root.is_dir():
        raise ManifestError("no such image folder", where=str(root), hint="give the folder of the images")
    names = read_header_row(path, columns.image)
    text_columns = {columns.image, columns.study, *columns.patient, *columns.hidden}
    numeric = {name for name in names if name not in text_columns}
    filled: set[str] = set()
    n_rows = 0
    for _, cells in read_rows(path, columns.image):
        n_rows += 1
        filled.update(cells)
        numeric -= {name for name in numeric.intersection(cells) if _DECIMAL.fullmatch(cells[name]) is None}
        _leading_zeros(cells, numeric)
    if not n_rows:
        raise ManifestError("no rows", where=path.name, hint="give a row for each image")
    return Manifest(
        path=path,
        image_root=root.resolve(),
        columns=columns,
        numeric=frozenset(numeric & filled),
        n_rows=n_rows,
    )


def _leading_zeros(cells: dict[str, str], numeric: set[str]) -> None:
    """Codes such as 007 are names, not numbers: their columns stay text."""
    for name in numeric.intersection(cells):
        digits = cells[name].lstrip("-")
        if len(digits) > 1 and digits[0] == "0" and digits[1] != ".":
            numeric.discard(name)


class _RowScan:
    """Reads the rows' images; keeps the last file's content, since frames of one file stand together."""

    def __init__(self, manifest: Manifest, reader: Reader) -> None:
        self._manifest = manifest
        self._reader = reader
        self._root = str(manifest.image_root)
        self._folders: dict[str, str] = {}
        self._last: tuple[str, FileContent] | None = None

    def read(
        self, line: int, cells: dict[str, str], seen: dict[tuple[str, int], int]
    ) -> tuple[list[ImageRecord], int]:
        """Records of one row, and the number of frames left out by policy."""
        columns = self._manifest.columns
        cell, frame_cell = cells.get(columns.image, "").strip(), cells.get(columns.frame, "").strip()
        name = readable_name(cell + (f"#{frame_cell}" if frame_cell else ""))
        if not cell:
            raise self._refused(f"line {line}", "no image named", line, "name a file in every row")
        relative = self._relative(cell, name, line)
        path = Path(self._root, relative)
        content = self._content(path, relative, name, line)
        if frame_cell:
            content = self._framed(content, frame_cell, name, line)
        keys = [(relative, frame) for frame in content.frames]
        first = next((seen[key] for key in keys if key in seen), None)
        if first is not None:
            raise self._refused(name, f"named twice, first in line {first}", line, "keep one of the rows")
        seen.update(dict.fromkeys(keys, line))
        records = content.records(path, relative, fields=self._fields(cells))
        n_left_out = 0 if frame_cell else content.n_frames - len(content.frames)
        return [self._identified(record, cells) for record in records], n_left_out

    def _content(self, path: Path, relative: str, name: str, line: int) -> FileContent:
        if self._last is not None and self._last[0] == relative:
            return self._last[1]
        try:
            content = self._reader.read(path, relative)
        except ImageRejected as error:
            raise _RowRejected(Rejection.of(name, error)) from None
        except (FileNotFoundError, NotADirectoryError):
            raise self._refused(name, "no such file", line, "check the image root and the path") from None
        except OSError as error:
            raise _RowRejected(unreadable(name, error)) from None
        self._last = (relative, content)
        return content

    def _framed(self, content: FileContent, frame_cell: str, name: str, line: int) -> FileContent:
        if not re.fullmatch(r"[0-9]{1,9}(\.0)?", frame_cell):
            raise self._refused(
                name,
                "a frame that is not a number",
                line,
                f"count from 0 in column {self._manifest.columns.frame}",
            )
        try:
            return self._reader.with_frame(content, int(float(frame_cell)), name)
        except ImageRejected as error:
            raise _RowRejected(Rejection.of(name, error)) from None

    def _relative(self, cell: str, name: str, line: int) -> str:
        """The path relative to the root, in POSIX form, having made sure that it does not leave the root."""
        if "://" in cell:
            raise self._refused(name, "a URL, which is never fetched", line, "download it first")
        posix = cell.replace("\\", "/") if os.sep == "/" and "/" not in cell else cell
        full = os.path.normpath(os.path.join(self._root, posix))
        if "\0" not in full and self._inside(full) and self._inside(self._real(full)):
            return Path(full).relative_to(self._root).as_posix()
        raise self._refused(
            name, "a path that leaves the image root", line, "keep the files below the image root"
        )

    def _real(self, full: str) -> str:
        folder, base = os.path.split(full)
        real = self._folders.get(folder)
        if real is None:
            real = self._folders[folder] = os.path.realpath(folder)
        return os.path.realpath(full) if os.path.islink(full) else os.path.join(real, base)

    def _inside(self, full: str) -> bool:
        return full.startswith(self._root.rstrip(os.sep) + os.sep)

    def _fields(self, cells: dict[str, str]) -> dict[str, FieldValue]:
        columns = self._manifest.columns
        kept_back = {columns.image, columns.frame, columns.study, *columns.patient, *columns.hidden}
        return {
            name: _number(cell) if name in self._manifest.numeric else cell[:_MAX_VALUE]
            for name, cell in cells.items()
            if name not in kept_back
        }

    def _identified(self, record: ImageRecord, cells: dict[str, str]) -> ImageRecord:
        columns = self._manifest.columns
        patient_id = next((cells[name] for name in columns.patient if name in cells), "")
        study_uid = cells.get(columns.study, "")[:_MAX_VALUE]
        patient = record.patient
        if patient_id:
            patient = replace(patient or Patient(), patient_id=patient_id)
        return replace(record, patient=patient, study_uid=study_uid or record.study_uid)

    def _refused(self, name: str, what: str, line: int, hint: str) -> _RowRejected:
        where = f" ({self._manifest.path.name}, line {line})"
        return _RowRejected(Rejection(name=name, code="manifest", what=what + where, hint=hint))


def _number(cell: str) -> FieldValue:
    return int(cell) if _WHOLE.fullmatch(cell) else float(cell)
