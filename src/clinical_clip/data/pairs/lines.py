"""Tab-separated lines keyed by their first field. A bad line is listed; the rest is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clinical_clip.data.pairs.pair import RowProblem
from clinical_clip.data.table import MAX_CELL
from clinical_clip.errors import ManifestError

__all__ = ["read_keyed_lines", "read_lines"]


def read_lines(path: Path, problems: list[RowProblem]) -> Iterator[tuple[int, str]]:
    """Numbered lines, from 1, without their ends; blank ones are passed over.

    Raises:
        ManifestError: the file cannot be opened, or is UTF-16.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while data := file.readline(MAX_CELL):
                number += 1
                if number == 1:
                    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
                        raise ManifestError(
                            "UTF-16 text", where=f"{path.name}, line 1", hint="save it as UTF-8"
                        )
                    data = data.removeprefix(b"\xef\xbb\xbf")
                where = f"{path.name}, line {number}"
                if len(data) == MAX_CELL:
                    raise ManifestError("a line that is too long", where=where, hint="fetch the file again")
                try:
                    text = data.decode().rstrip("\r\n")
                except UnicodeDecodeError:
                    problems.append(RowProblem(where=where, what="text that is not UTF-8"))
                    continue
                if "\0" in text:
                    problems.append(RowProblem(where=where, what="a NUL byte"))
                elif text.strip():
                    yield number, text
    except OSError as error:
        raise ManifestError(
            f"cannot be read: {error.strerror or type(error).__name__}",
            where=path.name,
            hint="check its path and permissions",
        ) from None


def read_keyed_lines(path: Path, problems: list[RowProblem]) -> dict[str, list[str]]:
    """Fields after the first, by the first: the id. Of an id that stands twice the first line counts."""
    rows: dict[str, list[str]] = {}
    for number, text in read_lines(path, problems):
        where = f"{path.name}, line {number}"
        key, *fields = text.split("\t")
        key = key.strip()
        if not fields:
            problems.append(RowProblem(where=where, what="no tab: an id alone"))
        elif not key:
            problems.append(RowProblem(where=where, what="no id"))
        elif key in rows:
            problems.append(RowProblem(where=where, what="an id that an earlier line has"))
        else:
            rows[key] = fields
    return rows
