"""Options that several verbs share."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clinical_clip.embed.openvino_backend import Precision
    from clinical_clip.types import Rejection

__all__ = [
    "EncoderName",
    "ImageRoot",
    "PrecisionName",
    "RejectionsFile",
    "Workers",
    "acknowledger",
    "precision_of",
    "write_rejections",
]

EncoderName = Annotated[str, typer.Option("--encoder", help="Shipped encoder, or a folder that holds one.")]
PrecisionName = Annotated[str, typer.Option("--precision", help="auto, f32 or bf16.")]
ImageRoot = Annotated[
    Path | None, typer.Option("--image-root", help="Where a manifest's paths start. Default: its folder.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Decoder processes. Default: one a CPU.")
]
RejectionsFile = Annotated[
    Path | None, typer.Option("--rejections", help="Write every rejected file and why into this CSV.")
]


def precision_of(text: str) -> Precision:
    """The precision named by ``--precision``.

    Raises:
        OptionError: another word.
    """
    from clinical_clip.errors import OptionError

    if text == "auto":
        return "auto"
    if text == "f32":
        return "f32"
    if text == "bf16":
        return "bf16"
    raise OptionError(f"no precision {text!r}", where="--precision", hint="use auto, f32 or bf16")


def write_rejections(path: Path | None, rejections: Sequence[Rejection]) -> None:
    """Write the rejections as CSV, whole or not at all. Cells that a spreadsheet would run are quoted."""
    if path is None:
        return
    from clinical_clip.atomic import replace_file
    from clinical_clip.spreadsheet import inert_cell

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["name", "code", "what", "hint"])
    for row in rejections:
        writer.writerow([inert_cell(cell) for cell in (row.name, row.code, row.what, row.hint)])
    with replace_file(path) as stream:
        stream.write(text.getvalue().encode())


@contextmanager
def acknowledger(path: Path | None) -> Iterator[Callable[[list[str]], None] | None]:
    """What ``index add`` calls after every commit: appends image ids, a line each, and flushes."""
    if path is None:
        yield None
        return
    stream = sys.stdout if str(path) == "-" else path.open("a", encoding="utf-8")
    try:

        def acknowledge(image_ids: list[str]) -> None:
            stream.write("".join(f"{image_id}\n" for image_id in image_ids))
            stream.flush()

        yield acknowledge
    finally:
        if stream is not sys.stdout:
            stream.close()
