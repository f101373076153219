"""``clinical-clip index``: make a library, add to it, remove from it, check it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinical_clip.cli.options import (
    EncoderName,
    ImageRoot,
    PrecisionName,
    RejectionsFile,
    Workers,
    acknowledger,
    precision_of,
    write_rejections,
)
from clinical_clip.cli.show import STDERR, print_json, progress_bar, show_rejections

if TYPE_CHECKING:
    from clinical_clip.embed.encoder import Encoder
    from clinical_clip.index.library import Library

__all__ = ["index_app", "open_or_create"]

index_app = typer.Typer(no_args_is_help=True, help="Make a library, add to it, remove from it, check it.")

LibraryPath = Annotated[Path, typer.Argument(help="Folder of the library.", metavar="LIBRARY")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@index_app.command("add")
def add(
    library: LibraryPath,
    source: Annotated[Path, typer.Argument(help="Folder, DICOMDIR, image file, or manifest (CSV, Parquet).")],
    *,
    encoder: EncoderName = "imagenet-lite0",
    precision: PrecisionName = "auto",
    image_root: ImageRoot = None,
    workers: Workers = None,
    rejections: RejectionsFile = None,
    ack_log: Annotated[
        Path | None, typer.Option(help="Append each image id here once it is safely stored (- for stdout).")
    ] = None,
    json: AsJson = False,
) -> None:
    """Add every image of SOURCE to LIBRARY, which is made if it is not there.

    Images are known by their SOP Instance UID or content, so adding twice changes nothing. Interrupted at
    any moment, the library stays whole; run the command again to go on.
    """
    from clinical_clip.data.source import open_source
    from clinical_clip.embed.encoders import open_encoder
    from clinical_clip.index.ingest import ingest

    items = open_source(source, image_root=image_root)
    model = open_encoder(encoder, precision=precision_of(precision))
    with open_or_create(library, model) as opened:
        with progress_bar("index") as progress, acknowledger(ack_log) as acknowledge:
            done = ingest(opened, items, model, acknowledge=acknowledge, progress=progress, workers=workers)
        images = len(opened)
    write_rejections(rejections, done.rejections)
    show_rejections(done.rejections)
    counts = {
        "added": done.result.added,
        "updated": done.result.updated,
        "unchanged": done.result.unchanged,
        "rejected": len(done.rejections),
        "left_out": items.counts.left_out,
        "images": images,
    }
    if json:
        print_json(counts)
        return
    left_out = f", {items.counts.left_out:,} left out by the frame policy" if items.counts.left_out else ""
    STDERR.print(
        f"{counts['added']:,} added, {counts['updated']:,} updated, {counts['unchanged']:,} unchanged, "
        f"{counts['rejected']:,} rejected{left_out}; {images:,} images in {library}"
    )


@index_app.command("remove")
def remove(
    library: LibraryPath,
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Image ids, SOP, series or study UIDs, or paths.", metavar="ID..."),
    ] = None,
    *,
    where: Annotated[
        list[str] | None, typer.Option("--where", help="Remove all that match, e.g. modality=CT.")
    ] = None,
) -> None:
    """Delete images from LIBRARY: vector, identity, fields and row. The files stay where they are."""
    from clinical_clip.errors import OptionError
    from clinical_clip.index.library import Library
    from clinical_clip.search.filters import matching_ids

    if bool(names) == bool(where):
        raise OptionError(
            "nothing named, or both names and a condition",
            where="index remove",
            hint="give image ids or UIDs, or --where, and not both",
        )
    with Library.open(library, writable=True) as opened:
        if names:
            ids = [image_id for name in names for image_id in opened.resolve(name)]
        else:
            ids = matching_ids(opened, where or [])
        removed = opened.remove(ids)
        STDERR.print(f"{removed:,} removed; {len(opened):,} images in {library}")


@index_app.command("info")
def info(library: LibraryPath, *, json: AsJson = False) -> None:
    """What LIBRARY holds, and what made it."""
    from dataclasses import asdict
    from datetime import UTC, datetime

    from clinical_clip.index.library import Library

    with Library.open(library) as opened:
        facts = asdict(opened.info())
    created = datetime.fromtimestamp(facts["created_at"], UTC).isoformat(timespec="seconds")
    facts |= {"path": str(facts["path"]), "created_at": created}
    if json:
        print_json(facts)
        return
    for name, value in facts.items():
        shown = ", ".join(value) if isinstance(value, tuple) else value
        if isinstance(value, int):
            shown = f"{value:,}"
        print(f"{name.replace('_', ' '):22}{shown}")


@index_app.command("verify")
def verify(
    library: LibraryPath,
    *,
    ack_log: Annotated[
        Path | None, typer.Option(help="A file written by index add --ack-log: all of it must be stored.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Check LIBRARY: catalogue against vectors against matrix, checksums, counts. Exit 1 if not clean."""
    from dataclasses import asdict

    from clinical_clip.index.library import Library

    acknowledged = ack_log.read_text(encoding="utf-8").split("\n")[:-1] if ack_log else []
    with Library.open(library) as opened:
        report = opened.verify(acknowledged)
    if json:
        print_json(asdict(report) | {"ok": report.ok})
    else:
        print(f"{report.items:,} images, {report.vectors:,} vectors, {report.matrix:,} in the matrix")
        if ack_log:
            print(f"{report.acknowledged:,} acknowledged, {report.missing:,} missing")
        for notice in report.notices:
            print(f"note: {notice}")
        for problem in report.problems:
            print(f"problem: {problem}")
        print("clean" if report.ok else "NOT CLEAN: run `clinical-clip index rebuild`, then verify again")
    raise typer.Exit(0 if report.ok else 1)


@index_app.command("rebuild")
def rebuild(library: LibraryPath) -> None:
    """Make the matrix of LIBRARY anew from its catalogue, without the holes that removals left."""
    from clinical_clip.index.library import Library

    with Library.open(library, writable=True) as opened:
        opened.rebuild()
        STDERR.print(f"rebuilt: {len(opened):,} images in {library}")


def open_or_create(path: Path, encoder: Encoder) -> Library:
    """The library at ``path``, open for writing; a new one for this encoder where there is none."""
    from clinical_clip.index.library import Library

    if path.is_dir() and any(path.iterdir()):
        return Library.open(path, writable=True)
    return Library.create(
        path,
        encoder_name=encoder.name,
        width=encoder.width,
        encoder_digest=encoder.digest,
        preprocessing_digest=encoder.preprocessing.digest,
    )
