"""Pairs out of any table with a column of image paths and one of captions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clinical_clip.data.columns import DEFAULT_COLUMNS, ManifestColumns
from clinical_clip.data.pairs.images import ImageFinder
from clinical_clip.data.pairs.pair import CAPTION_SOURCE, SYNTHETIC, Pair, RowProblem, split_name
from clinical_clip.data.table import read_header_row, read_rows
from clinical_clip.errors import ManifestError

__all__ = ["DEFAULT_PAIR_COLUMNS", "PairColumns", "read_manifest_pairs"]

_FRAME = re.compile(r"[0-9]{1,9}(\.0)?")
_SEPARATORS = re.compile(r"[;,|\s]+")
_MAX_LABEL = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class PairColumns:
    """Which columns hold what a pair needs; of several names the first that is filled in a row counts.

    Attributes:
        text: columns of captions, the best first. Give ``("caption", "report")`` to fall back on reports.
        synthetic: those among ``text`` whose content a program made; their pairs are marked so.
        pair_id: unique ids. Without one: the image's path, and its frame.
        group: what a split must not cut apart.
        split: the split.
        cuis: UMLS concepts, separated by blanks, commas, semicolons or bars.
        keywords: separated by semicolons, commas or bars.
        licence: the licence.
        real: a column of 0 and 1 that says whether the caption was written by people.
        table: image, frame, and what must not be shown.
    """

    text: tuple[str, ...] = ("caption",)
    synthetic: frozenset[str] = frozenset({"label_text"})
    pair_id: tuple[str, ...] = ("pair_id", "image_id", "id")
    group: tuple[str, ...] = (
        "split_group",
        "article",
        "pmcid",
        "PMCID",
        *DEFAULT_COLUMNS.patient,
        "study_uid",
        "study",
    )
    split: tuple[str, ...] = ("split", "subset")
    cuis: tuple[str, ...] = ("cuis", "CUIs", "cui")
    keywords: tuple[str, ...] = ("keywords",)
    licence: tuple[str, ...] = ("licence", "license")
    real: str = "caption_is_real"
    table: ManifestColumns = DEFAULT_COLUMNS


DEFAULT_PAIR_COLUMNS = PairColumns()
"""The columns that are looked for where none are named."""


def read_manifest_pairs(
    path: Path,
    *,
    images: Path | None,
    columns: PairColumns = DEFAULT_PAIR_COLUMNS,
    problems: list[RowProblem],
) -> Iterator[Pair]:
    """A pair for each row that names an image, with or without a caption, in the order of the rows.

    Args:
        path: CSV, TSV or Parquet without pixels.
        images: what the paths start from; the table's folder where None, or ``images`` beside it.
        columns: which columns are what.
        problems: rows that cannot be used are added here.

    Raises:
        ManifestError: no column of images or captions, or a table that cannot be read.
    """
    names = read_header_row(path, columns.table.image)
    if not set(columns.text) & set(names):
        raise ManifestError(
            f"no column {' or '.join(map(repr, columns.text))}",
            where=f"{path.name}, line 1",
            hint=f"name the column of captions; there are: {', '.join(names[:15])}",
        )
    finder, folders = ImageFinder(images if images is not None else path.parent), ("", "images")
    seen: dict[str, int] = {}

    def on_bad_row(error: ManifestError) -> None:
        problems.append(RowProblem(where=error.where, what=error.what))

    for line, cells in read_rows(path, columns.table.image, on_bad_row=on_bad_row):
        where = f"{path.name}, line {line}"
        try:
            pair = _pair(cells, columns, finder, folders)
        except ValueError as error:  # UnsafePath among them
            problems.append(RowProblem(where=where, what=str(error)))
            continue
        if pair.pair_id in seen:
            problems.append(
                RowProblem(where=where, what=f"an id that line {seen[pair.pair_id]} has: left out")
            )
            continue
        seen[pair.pair_id] = line
        yield pair


def _pair(cells: dict[str, str], columns: PairColumns, finder: ImageFinder, folders: tuple[str, ...]) -> Pair:
    relative = cells.get(columns.table.image, "").strip()
    frame = cells.get(columns.table.frame, "").strip()
    if not relative:
        raise ValueError("no image named")
    if frame and not _FRAME.fullmatch(frame):
        raise ValueError(f"a frame that is not a number in column {columns.table.frame!r}")
    source = next((name for name in columns.text if cells.get(name, "").strip()), "")
    caption = " ".join(cells.get(source, "").split())
    labels = _labels(cells, columns)
    made = source in columns.synthetic or (source == columns.text[0] and cells.get(columns.real) == "0")
    if caption and made:
        labels[SYNTHETIC] = "1"
    if caption and source != columns.text[0]:
        labels[CAPTION_SOURCE] = source
    image_id = f"{relative}#{int(float(frame))}" if frame else relative
    return Pair(
        pair_id=_first(cells, columns.pair_id) or image_id,
        image=finder.find([relative], folders=folders) or Path(),
        frame=int(float(frame or 0)),
        caption=caption,
        image_id=image_id,
        article=_first(cells, columns.group),
        split=split_name(_first(cells, columns.split)),
        cuis=_list(_first(cells, columns.cuis)),
        keywords=_list(_first(cells, columns.keywords), blanks=False),
        licence=_first(cells, columns.licence),
        labels=labels,
    )


def _labels(cells: dict[str, str], columns: PairColumns) -> dict[str, str]:
    """What else a row says, without texts and without what identifies a person."""
    table = columns.table
    used = {
        table.image,
        table.frame,
        *table.patient,
        *table.hidden,
        *columns.text,
        *columns.synthetic,
        *columns.pair_id,
        *columns.group,
        *columns.split,
        *columns.cuis,
        *columns.keywords,
        *columns.licence,
        "caption",
        "report",
    }
    return {name: cell for name, cell in cells.items() if name not in used and len(cell) <= _MAX_LABEL}


def _first(cells: dict[str, str], names: tuple[str, ...]) -> str:
    return next((cells[name].strip() for name in names if cells.get(name, "").strip()), "")


def _list(text: str, *, blanks: bool = True) -> tuple[str, ...]:
    parts = _SEPARATORS.split(text) if blanks else re.split(r"[;,|]", text)
    return tuple(dict.fromkeys(part.strip(" '\"[]") for part in parts if part.strip(" '\"[]")))
