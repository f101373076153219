"""A contact sheet: the query and its results, one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from clinical_clip.atomic import replace_file
from clinical_clip.search.thumbnails import hit_record, thumbnail
from clinical_clip.types import FieldValue, Hit, ImageRecord

__all__ = ["NOT_FOR_DIAGNOSIS", "caption_of", "draw_sheet", "labels_of", "save_sheet"]

NOT_FOR_DIAGNOSIS = "Research use; not for diagnosis."


@dataclass(frozen=True, kw_only=True, slots=True)
class _Style:
    side: int = 220
    gap: int = 12
    line: int = 17
    lines: int = 3
    columns: int = 5
    background: str = "#14171a"
    text: str = "#e8eaed"
    quiet: str = "#9aa0a6"
    accent: str = "#8ab4f8"

    @property
    def cell(self) -> tuple[int, int]:
        return self.side + self.gap, self.side + self.lines * self.line + self.gap


_STYLE = _Style()
_CAPTION_FIELDS = ("title", "caption", "series_description", "study_description")


def draw_sheet(queries: Sequence[ImageRecord], hits: Sequence[Hit], *, title: str = "") -> Image.Image:
    """Queries in the first row, framed; results below in reading order with rank, score and labels.

    A result whose file is gone keeps its place and says so.
    """
    style = _STYLE
    query_rows = -(-len(queries) // style.columns)
    hit_rows = max(1, -(-len(hits) // style.columns))
    width = style.gap + style.columns * style.cell[0]
    height = 2 * style.gap + 2 * style.line + (query_rows + hit_rows) * style.cell[1] + 2 * style.line
    sheet = Image.new("RGB", (width, height), style.background)
    pen = ImageDraw.Draw(sheet)
    pen.text((style.gap, style.gap), title or "Similar images", style.text, _font(15))
    top = style.gap + 2 * style.line
    for place, record in enumerate(queries):
        lines = ["query", _short(record.name), labels_of(record.fields)]
        _cell(sheet, place, top, record, lines, framed=True)
    top += query_rows * style.cell[1]
    for place, hit in enumerate(hits):
        more = f"  ({hit.group_size} of this study)" if hit.group_size > 1 else ""
        lines = [f"{hit.rank}.  {hit.score:.3f}{more}", labels_of(hit.fields), caption_of(hit)]
        _cell(sheet, place, top, hit_record(hit), lines, framed=False)
    if not hits:
        pen.text((style.gap, top), "No result.", style.quiet, _font(13))
    pen.text((style.gap, height - 2 * style.line), NOT_FOR_DIAGNOSIS, style.quiet, _font(12))
    return sheet


def save_sheet(path: Path, queries: Sequence[ImageRecord], hits: Sequence[Hit], *, title: str = "") -> None:
    """Draw the sheet and write it as PNG, whole or not at all."""
    picture = draw_sheet(queries, hits, title=title)
    with replace_file(path) as stream:
        picture.save(stream, "PNG")


def _cell(
    sheet: Image.Image,
    place: int,
    top: int,
    record: ImageRecord,
    lines: list[str],
    *,
    framed: bool,
) -> None:
    style = _STYLE
    x = style.gap + (place % style.columns) * style.cell[0]
    y = top + (place // style.columns) * style.cell[1]
    pen = ImageDraw.Draw(sheet)
    picture = thumbnail(record, style.side)
    if picture is None:
        pen.rectangle((x, y, x + style.side, y + style.side), outline=style.quiet)
        pen.text((x + 8, y + 8), "file not found or unreadable", style.quiet, _font(12))
    else:
        sheet.paste(picture, (x, y))
    if framed:
        pen.rectangle((x - 2, y - 2, x + style.side + 1, y + style.side + 1), outline=style.accent, width=3)
    for number, line in enumerate(lines):
        colour = (style.accent if framed else style.text) if number == 0 else style.quiet
        pen.text(
            (x, y + style.side + 2 + number * style.line), _fit(pen, line, style.side), colour, _font(12)
        )


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fit(pen: ImageDraw.ImageDraw, text: str, width: int) -> str:
    font = _font(12)
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"


def labels_of(fields: Mapping[str, FieldValue]) -> str:
    """Modality and organ (or body part) of an image, as far as they are known."""
    organ = fields.get("organ") or fields.get("organ_group") or fields.get("body_part")
    return "  ".join(str(value) for value in (fields.get("modality"), organ) if value)


def caption_of(hit: Hit) -> str:
    """The image's title or caption, else a description of its series, else its file's name."""
    for name in _CAPTION_FIELDS:
        if hit.fields.get(name):
            return str(hit.fields[name])
    return _short(hit.relative_path)


def _short(name: str) -> str:
    return name.rsplit("/", 1)[-1]
