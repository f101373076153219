"""``clinical-clip embed``: a source of images to a file of vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinical_clip.cli.options import (
    EncoderName,
    ImageRoot,
    PrecisionName,
    RejectionsFile,
    Workers,
    precision_of,
    write_rejections,
)
from clinical_clip.cli.show import STDERR, progress_bar, show_rejections

__all__ = ["embed"]


def embed(
    source: Annotated[Path, typer.Argument(help="Folder, DICOMDIR, image file, or manifest (CSV, Parquet).")],
    out: Annotated[Path, typer.Option(help="The .npz file to write: arrays ids and vectors.")],
    *,
    encoder: EncoderName = "imagenet-lite0",
    precision: PrecisionName = "auto",
    image_root: ImageRoot = None,
    workers: Workers = None,
    rejections: RejectionsFile = None,
) -> None:
    """Encode every image of SOURCE into OUT.npz.

    `ids` are paths relative to SOURCE (path#frame where a file holds several images), `vectors` are
    float32 of norm 1. Interrupted, the same command goes on where it stopped.
    """
    from clinical_clip.data.source import open_source
    from clinical_clip.embed.bulk import embed_to_file
    from clinical_clip.embed.encoders import open_encoder
    from clinical_clip.errors import OptionError

    if out.suffix != ".npz":
        raise OptionError(f"unexpected file name {out.name!r}", where="--out", hint="end it with .npz")
    model = open_encoder(encoder, precision=precision_of(precision))
    items = open_source(source, image_root=image_root)
    with progress_bar("embed") as progress:
        done = embed_to_file(
            items, model, out, source=str(source.resolve()), progress=progress, workers=workers
        )
    write_rejections(rejections, done.rejections)
    show_rejections(done.rejections)
    new = done.images - done.resumed
    resumed = f" ({done.resumed:,} from the interrupted run)" if done.resumed else ""
    STDERR.print(
        f"{done.images:,} images{resumed} × {model.width} → {out}; "
        f"{new / max(done.elapsed_s, 1e-9):.0f} images/s with {model.name} in {model.runs_as}"
    )
