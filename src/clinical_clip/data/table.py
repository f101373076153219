"""The rows of a table on disk (CSV, TSV, Parquet) as text, streamed and bounded."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from clinical_clip.errors import ManifestError, MissingDependency

__all__ = ["MAX_CELL", "Row", "open_parquet", "read_header_row", "read_rows"]

MAX_CELL = 1 << 20
"""Characters that one cell may hold."""

_DELIMITERS = ",\t;|"

Row = tuple[int, dict[str, str]]
"""A row's line (CSV) or number (Parquet), from 1, and its cells by column. Empty cells are left out."""


def read_header_row(path: Path, wanted: str) -> list[str]:
    """The column names of the table at ``path``.

    Raises:
        ManifestError: an empty or unreadable table, or one without the column ``wanted``.
        MissingDependency: a Parquet table where pyarrow is not installed.
    """
    if path.suffix.lower() == ".parquet":
        names = [str(name) for name in open_parquet(path).schema_arrow.names]
        delimiter = ""
    else:
        with _open_text(path) as file:
            names, delimiter = _csv_header(file, path, wanted)
    if wanted not in names:
        shown = ", ".join(name[:40] for name in names[:12]) + (", ..." if len(names) > 12 else "")
        hint = f"name the column that holds the image paths; there are: {shown}"
        if len(names) == 1 and delimiter:
            hint += f" (are the cells separated by {delimiter!r}?)"
        raise ManifestError(f"no column {wanted!r}", where=f"{path.name}, line 1", hint=hint)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ManifestError(
            f"two columns named {twice[:40]!r}", where=f"{path.name}, line 1", hint="rename one of them"
        )
    return names


def read_rows(
    path: Path, wanted: str, *, on_bad_row: Callable[[ManifestError], None] | None = None
) -> Iterator[Row]:
    """The rows of the table at ``path`` whose column ``wanted`` exists.

    Args:
        path: of the table.
        wanted: a column that must be there.
        on_bad_row: is told of a row with too few or too many cells, which is then passed over.

    Raises:
        ManifestError: naming file, line and column of what cannot be read.
    """
    names = read_header_row(path, wanted)
    if path.suffix.lower() == ".parquet":
        yield from _parquet_rows(path)
    else:
        yield from _csv_rows(path, names, wanted, on_bad_row)


def _open_text(path: Path) -> TextIO:
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ManifestError("UTF-16 text", where=path.name, hint="save it as CSV in UTF-8")
        if start[:4] == b"PK\x03\x04":
            raise ManifestError("a spreadsheet or ZIP file", where=path.name, hint="save it as CSV in UTF-8")
        if start[:4] == b"PAR1":
            raise ManifestError("Parquet by another name", where=path.name, hint="name it .parquet")
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise ManifestError(
            f"cannot be read: {error.strerror}", where=path.name, hint="check its path and permissions"
        ) from None


def _csv_header(file: TextIO, path: Path, wanted: str) -> tuple[list[str], str]:
    """The names in the first line, split by the delimiter under which ``wanted`` is one of them."""
    try:
        line = file.readline(MAX_CELL)
    except UnicodeDecodeError:
        raise _not_utf8(path, 1) from None
    if not line.strip():
        raise ManifestError(
            "an empty table", where=f"{path.name}, line 1", hint="give it a header line and rows"
        )
    if "\0" in line:
        raise ManifestError("a NUL byte", where=f"{path.name}, line 1", hint="save it as CSV in UTF-8")
    splits = {
        delimiter: [name.strip() for name in next(csv.reader([line], delimiter=delimiter))]
        for delimiter in _DELIMITERS
    }
    best = next((one for one in _DELIMITERS if wanted in splits[one]), None)
    best = best or ("\t" if path.suffix.lower() in {".tsv", ".tab"} else ",")
    return splits[best], best


def _csv_rows(
    path: Path, names: list[str], wanted: str, on_bad_row: Callable[[ManifestError], None] | None
) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))
    with _open_text(path) as file:
        _, delimiter = _csv_header(file, path, wanted)
        reader = csv.reader(_checked_lines(file, path), delimiter=delimiter, strict=True)
        line = 2
        try:
            for cells in reader:
                where = f"{path.name}, line {line}"
                if cells and cells != [""] and len(cells) != len(names):
                    bad = ManifestError(
                        f"{len(cells)} cells under {len(names)} columns",
                        where=where,
                        hint="quote cells that hold the delimiter or a line break",
                    )
                    if on_bad_row is None:
                        raise bad
                    on_bad_row(bad)
                elif cells and cells != [""]:
                    yield line, {name: cell for name, cell in zip(names, cells, strict=True) if cell}
                line = reader.line_num + 2
        except csv.Error as error:
            what = "a cell that is too long" if "field larger" in str(error) else "quotes that do not match"
            raise ManifestError(
                what, where=f"{path.name}, line {line}", hint="check the quotes around this line"
            ) from None
        except UnicodeDecodeError:
            raise _not_utf8(path, reader.line_num + 2) from None


def _checked_lines(file: TextIO, path: Path) -> Iterator[str]:
    """Lines without NUL bytes, of bounded length, so that one endless line cannot fill the memory."""
    number = 2
    while line := file.readline(8 * MAX_CELL):
        if "\0" in line:
            raise ManifestError(
                "a NUL byte", where=f"{path.name}, line {number}", hint="save it as CSV in UTF-8"
            )
        if len(line) == 8 * MAX_CELL:
            raise ManifestError(
                "a line that is too long", where=f"{path.name}, line {number}", hint="shorten its cells"
            )
        yield line
        number += 1


def _not_utf8(path: Path, line: int) -> ManifestError:
    return ManifestError(
        "text that is not UTF-8", where=f"{path.name}, near line {line}", hint="save it as CSV in UTF-8"
    )


def open_parquet(path: Path) -> Any:
    """The ``pyarrow.parquet.ParquetFile`` at ``path``.

    Raises:
        MissingDependency: pyarrow is not installed.
        ManifestError: not a Parquet file.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingDependency(
            "Parquet needs pyarrow", where=path.name, hint="pip install 'clinical-clip[evaluate]'"
        ) from None
    try:
        return pq.ParquetFile(path)
    except Exception as error:
        raise ManifestError(
            f"not a Parquet table ({type(error).__name__})", where=path.name, hint="write it again"
        ) from None


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa

    table = open_parquet(path)
    schema = table.schema_arrow
    plain = [one.name for one in schema if not (pa.types.is_nested(one.type) or pa.types.is_binary(one.type))]
    number = 0
    try:
        for batch in table.iter_batches(batch_size=1024, columns=plain):
            for cells in batch.to_pylist():
                number += 1
                yield number, {name: text for name, one in cells.items() if (text := _cell_text(one))}
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(
            f"damaged Parquet ({type(error).__name__})",
            where=f"{path.name}, row {number + 1}",
            hint="write it again",
        ) from None


def _cell_text(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):  # NaN: missing
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return str(value)[: MAX_CELL + 1]
