"""A manifest: a table whose rows name images and say what is known of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clinical_clip.data.columns import DEFAULT_COLUMNS, ManifestColumns
from clinical_clip.data.counts import SourceCounts
from clinical_clip.data.files import Reader
from clinical_clip.data.manifest_rows import RowReader, RowRejected
from clinical_clip.data.table import read_header_row, read_rows
from clinical_clip.errors import ManifestError
from clinical_clip.types import ImageRecord, Rejection

__all__ = ["Manifest", "open_manifest"]

_DECIMAL = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?")


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
        rows = RowReader(
            reader,
            table_name=self.path.name,
            image_root=self.image_root,
            columns=self.columns,
            numeric=self.numeric,
        )
        for line, cells in read_rows(self.path, self.columns.image):
            counts.files += 1
            try:
                records, n_left_out = rows.read(line, cells)
                counts.used += 1
                counts.left_out += n_left_out
                counts.images += len(records)
                yield from records
            except RowRejected as error:
                counts.rejected += 1
                yield error.rejection


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
