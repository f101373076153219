"""The images that the rows of a manifest name."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from clinical_clip.data.columns import ManifestColumns
from clinical_clip.data.files import FileContent, Reader, readable_name
from clinical_clip.data.folder import unreadable
from clinical_clip.errors import ImageRejected
from clinical_clip.types import FieldValue, ImageRecord, Patient, Rejection

__all__ = ["RowReader", "RowRejected"]

_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,14})")
_MAX_VALUE = 100_000


class RowRejected(Exception):
    """Why one row gives no image."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.what)
        self.rejection = rejection


class RowReader:
    """Reads the rows' images; keeps the last file's content, since frames of one file stand together."""

    def __init__(
        self,
        reader: Reader,
        *,
        table_name: str,
        image_root: Path,
        columns: ManifestColumns,
        numeric: frozenset[str],
    ) -> None:
        self._reader = reader
        self._table_name = table_name
        self._root = str(image_root)
        self._columns = columns
        self._numeric = numeric
        self._kept_back = {columns.image, columns.frame, columns.study, *columns.patient, *columns.hidden}
        self._folders: dict[str, str] = {}
        self._lines: dict[tuple[str, int], int] = {}
        self._last: tuple[str, FileContent] | None = None

    def read(self, line: int, cells: dict[str, str]) -> tuple[list[ImageRecord], int]:
        """Records of one row, and the number of frames left out by policy.

        Raises:
            RowRejected: the row gives no image, or one that an earlier row has given.
        """
        columns = self._columns
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
        first = next((self._lines[key] for key in keys if key in self._lines), None)
        if first is not None:
            raise self._refused(name, f"named twice, first in line {first}", line, "keep one of the rows")
        self._lines.update(dict.fromkeys(keys, line))
        records = content.records(path, relative, fields=self._fields(cells))
        n_left_out = 0 if frame_cell else content.n_frames - len(content.frames)
        return [self._identified(record, cells) for record in records], n_left_out

    def _content(self, path: Path, relative: str, name: str, line: int) -> FileContent:
        if self._last is not None and self._last[0] == relative:
            return self._last[1]
        try:
            content = self._reader.read(path, relative)
        except ImageRejected as error:
            raise RowRejected(Rejection.of(name, error)) from None
        except (FileNotFoundError, NotADirectoryError):
            raise self._refused(name, "no such file", line, "check the image root and the path") from None
        except OSError as error:
            raise RowRejected(unreadable(name, error)) from None
        self._last = (relative, content)
        return content

    def _framed(self, content: FileContent, frame_cell: str, name: str, line: int) -> FileContent:
        if not re.fullmatch(r"[0-9]{1,9}(\.0)?", frame_cell):
            raise self._refused(
                name,
                "a frame that is not a number",
                line,
                f"count from 0 in column {self._columns.frame}",
            )
        try:
            return self._reader.with_frame(content, int(float(frame_cell)), name)
        except ImageRejected as error:
            raise RowRejected(Rejection.of(name, error)) from None

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
        return {
            name: _number(cell) if name in self._numeric else cell[:_MAX_VALUE]
            for name, cell in cells.items()
            if name not in self._kept_back
        }

    def _identified(self, record: ImageRecord, cells: dict[str, str]) -> ImageRecord:
        columns = self._columns
        patient_id = next((cells[name] for name in columns.patient if name in cells), "")
        study_uid = cells.get(columns.study, "")[:_MAX_VALUE]
        patient = record.patient
        if patient_id:
            patient = replace(patient or Patient(), patient_id=patient_id)
        return replace(record, patient=patient, study_uid=study_uid or record.study_uid)

    def _refused(self, name: str, what: str, line: int, hint: str) -> RowRejected:
        where = f" ({self._table_name}, line {line})"
        return RowRejected(Rejection(name=name, code="manifest", what=what + where, hint=hint))


def _number(cell: str) -> FieldValue:
    return int(cell) if _WHOLE.fullmatch(cell) else float(cell)
