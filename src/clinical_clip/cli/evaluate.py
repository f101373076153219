"""``clinical-clip evaluate``: measure retrieval on labelled images."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from clinical_clip.evaluate.methods import Progress
    from clinical_clip.evaluate.results import Evaluation

__all__ = ["evaluate_app"]

evaluate_app = typer.Typer(no_args_is_help=True, help="Measure retrieval: precision at K beside its floors.")


class _Gallery(StrEnum):
    ALL = "all"
    OTHER_GROUP = "other-group"
    OTHER_SOURCE = "other-source"


class _MinRelevant(StrEnum):
    NONE = "none"
    ONE = "1"
    MAX_K = "maxk"


@evaluate_app.callback()
def evaluate() -> None:
    """Measure retrieval: precision at K beside its floors."""


@evaluate_app.command("manifest")
def manifest_command(
    manifest: Annotated[Path, typer.Argument(help="CSV or Parquet file: one image a row, with its labels.")],
    *,
    labels: Annotated[
        str, typer.Option(help="Label columns, by commas; a+b needs both to agree.", show_default=False)
    ],
    image_root: Annotated[
        Path | None,
        typer.Option(help="Folder that the paths start from.", show_default="the manifest's folder"),
    ] = None,
    gallery: Annotated[
        _Gallery, typer.Option(help="What a query may find: other rows of any, another group or source.")
    ] = _Gallery.ALL,
    k: Annotated[str, typer.Option("--k", help="Cut-offs K, by commas.")] = "5,10,30",
    encoder: Annotated[str, typer.Option(help="Encoder to measure: a name or a folder.")] = "imagenet-lite0",
    vectors: Annotated[
        Path | None, typer.Option(help="Measure these stored vectors (.npz) instead of encoding.")
    ] = None,
    compare: Annotated[
        str, typer.Option(help="Baselines: random, pixels, other .npz files, by commas; or none.")
    ] = "random,pixels",
    rows: Annotated[
        list[str] | None, typer.Option(help="Take only rows with COLUMN=VALUE; repeat for more.")
    ] = None,
    queries: Annotated[
        list[str] | None, typer.Option(help="Of those, query only with rows of COLUMN=VALUE.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Short for --rows split=VALUE; repeat for more.")
    ] = None,
    group_column: Annotated[str, typer.Option(help="Column of the patient or group.")] = "split_group",
    source_column: Annotated[str, typer.Option(help="Column of the source.")] = "source",
    min_relevant: Annotated[
        _MinRelevant, typer.Option(help="Leave out queries with fewer relevant images in their gallery.")
    ] = _MinRelevant.MAX_K,
    bootstrap: Annotated[int, typer.Option(help="Resamples and permutations; 0 for none.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the resampling and the random ranking.")] = 42,
    save_vectors: Annotated[Path | None, typer.Option(help="Keep the vectors in this .npz file.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write results.json, .csv, .md and a plot into this folder.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Precision at K over the images of a manifest, with floors, intervals and paired tests."""
    from clinical_clip.evaluate.manifest import evaluate_manifest
    from clinical_clip.evaluate.methods import parse_baselines
    from clinical_clip.evaluate.protocol import GalleryRule, MinRelevant, Protocol
    from clinical_clip.evaluate.table import parse_labels

    protocol = Protocol(
        labels=parse_labels(labels),
        gallery=GalleryRule(gallery.value),
        ks=_parse_ks(k),
        min_relevant=MinRelevant(min_relevant.value),
        group_column=group_column,
        source_column=source_column,
        replicates=bootstrap,
        seed=seed,
    )
    baselines = parse_baselines(compare)
    with _progress() as bars:
        evaluation = evaluate_manifest(
            manifest,
            protocol,
            image_root=image_root,
            encoder=encoder,
            vectors=vectors,
            baselines=baselines,
            rows=[*(rows or []), *(f"split={value}" for value in split or [])],
            queries=queries or [],
            save_vectors_to=save_vectors,
            progress=_reporter(bars),
        )
    _show(evaluation, out=out, as_json=json)


def _parse_ks(text: str) -> tuple[int, ...]:
    from clinical_clip.errors import OptionError

    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise OptionError(
            f"K must be whole numbers: {text!r}", where="--k", hint="for example --k 5,10,30"
        ) from None


def _progress() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _reporter(bars: RichProgress) -> Progress:
    tasks: dict[str, TaskID] = {}

    def report(phase: str, done: int, total: int) -> None:
        if phase not in tasks:
            tasks[phase] = bars.add_task(phase, total=total)
        bars.update(tasks[phase], completed=done)

    return report


def _show(evaluation: Evaluation, *, out: Path | None, as_json: bool) -> None:
    from rich.console import Console

    from clinical_clip.evaluate.report import print_report, to_json, write_report

    written = write_report(evaluation, out) if out is not None else []
    if as_json:
        typer.echo(to_json(evaluation), nl=False)
    else:
        print_report(evaluation, Console())
    for path in written:
        typer.echo(f"wrote {path}", err=True)
