"""``clinical-clip data``: look through a data set of pairs, split it, pack it into shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinical_clip.cli.show import STDERR, print_json

if TYPE_CHECKING:
    from clinical_clip.data.pairs.pair import PairSet

__all__ = ["data_app"]

data_app = typer.Typer(no_args_is_help=True, help="Check, split and pack data sets of images and captions.")

DataSet = Annotated[
    Path,
    typer.Argument(help="ROCO, ROCOv2, CheXpert, Parquet files, shards, or a table of images and captions."),
]
Images = Annotated[
    Path | None, typer.Option("--images", help="Folder of the images, if not the data set's own.")
]
Kind = Annotated[str, typer.Option("--kind", help="auto, or what the data set is.")]
Group = Annotated[str, typer.Option("--group", help="Of ROCO: radiology, non-radiology or all.")]
Splits = Annotated[Path | None, typer.Option("--splits", help="Splits made by `data split`.")]
Text = Annotated[
    list[str] | None, typer.Option("--text", help="Caption column of a table; again for a fallback.")
]
Synthetic = Annotated[
    bool, typer.Option("--synthetic", help="Take captions made from labels where there are no others.")
]


@data_app.command("check")
def check(
    path: DataSet,
    *,
    images: Images = None,
    kind: Kind = "auto",
    group: Group = "radiology",
    splits: Splits = None,
    text: Text = None,
    synthetic: Synthetic = False,
    tower_limits: Annotated[bool, typer.Option(help="Count tokens against the text towers' limits.")] = True,
    bert: Annotated[
        Path | None, typer.Option("--bert", help="Folder or vocab.txt of the BERT text tower.")
    ] = None,
    hashes: Annotated[bool, typer.Option(help="Read every image to find equal files.")] = True,
    phash: Annotated[bool, typer.Option("--phash", help="Decode every image to find look-alikes.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 1 if images are missing, rows are bad or splits leak.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what is found and missing, how long captions are, what repeats, and what leaks between splits."""
    from rich.console import Console

    from clinical_clip.cli.check_table import show_check
    from clinical_clip.data.pairs.check import check_pairs

    pairs = _open(
        path,
        images=images,
        kind=kind,
        group=group,
        splits=splits,
        text=text,
        synthetic=synthetic,
        require_images=False,
    )
    with _bar() as progress:
        report = check_pairs(
            pairs,
            hash_images=hashes,
            compare_pixels=phash,
            bert=bert,
            tower_limits=tower_limits,
            progress=progress,
        )
    if as_json:
        print_json(report.as_dict())
    else:
        show_check(report, Console())
    if strict and not report.clean:
        raise typer.Exit(1)


@data_app.command("split")
def split(
    path: DataSet,
    out: Annotated[Path, typer.Option("--out", help="CSV of pair_id and split.")],
    *,
    images: Images = None,
    kind: Kind = "auto",
    group: Group = "radiology",
    text: Text = None,
    synthetic: Synthetic = False,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Keep the published test split; drop what others share with it."),
    ] = False,
    validation: Annotated[float, typer.Option(help="Share of the groups, for a new split.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the groups, for a new split.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of a new split.")] = 42,
) -> None:
    """Split by article, study or patient, so that none is in two splits; say what they shared."""
    from clinical_clip.data.pairs.split import drop_shared, group_split, write_splits

    pairs = _open(
        path,
        images=images,
        kind=kind,
        group=group,
        splits=None,
        text=text,
        synthetic=synthetic,
        require_images=False,
    )
    new = drop_shared(pairs) if keep else group_split(pairs, validation=validation, test=test, seed=seed)
    _say_overlaps("before", pairs)
    write_splits(new, out)
    _say_overlaps("after", new)
    sizes = ", ".join(f"{name} {len(new.split(name)):,}" for name in new.splits)
    dropped = f"; {len(pairs) - len(new):,} pairs dropped" if len(new) < len(pairs) else ""
    STDERR.print(f"{out}: {sizes}{dropped}", highlight=False, soft_wrap=True)
    lone = sum(not pair.article for pair in pairs)
    if lone:
        STDERR.print(
            f"{lone:,} pairs name no article, study or patient: they are told apart by image alone",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )


@data_app.command("shards")
def shards(
    path: DataSet,
    out: Annotated[Path, typer.Option("--out", help="Folder of the shards.")],
    *,
    images: Images = None,
    kind: Kind = "auto",
    group: Group = "radiology",
    splits: Splits = None,
    text: Text = None,
    synthetic: Synthetic = False,
    per_shard: Annotated[int, typer.Option(min=1, help="Pairs in a shard.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the order.")] = 42,
) -> None:
    """Pack pairs into WebDataset tar files. Run it again to go on where it was stopped."""
    from clinical_clip.data.pairs.shards import write_shards

    pairs = _open(
        path,
        images=images,
        kind=kind,
        group=group,
        splits=splits,
        text=text,
        synthetic=synthetic,
        require_images=True,
    )
    with _bar() as progress:
        report = write_shards(
            pairs,
            out,
            per_shard=per_shard,
            seed=seed,
            progress=lambda done, total: progress("writing shards", done, total),
        )
    for pair_id, why in report.left_out[:10]:
        STDERR.print(f"  {pair_id}: {why}", markup=False, highlight=False, soft_wrap=True)
    left = f", {len(report.left_out):,} images could not be read" if report.left_out else ""
    STDERR.print(
        f"{out}: {report.pairs:,} pairs in {report.shards:,} shards, {report.written:,} of them new{left}",
        highlight=False,
        soft_wrap=True,
    )


def _open(
    path: Path,
    *,
    images: Path | None,
    kind: str,
    group: str,
    splits: Path | None,
    text: list[str] | None,
    synthetic: bool,
    require_images: bool,
) -> PairSet:
    from dataclasses import replace

    from clinical_clip.data.pairs.manifest import DEFAULT_PAIR_COLUMNS
    from clinical_clip.data.pairs.open import open_pairs

    columns = DEFAULT_PAIR_COLUMNS if not text else replace(DEFAULT_PAIR_COLUMNS, text=tuple(text))
    return open_pairs(
        path,
        kind=kind,
        images=images,
        group=group,
        splits=splits,
        columns=columns,
        synthetic=synthetic,
        require_images=require_images,
    )


def _say_overlaps(when: str, pairs: PairSet) -> None:
    from clinical_clip.data.pairs.split import group_of, overlaps

    for one in overlaps(pairs, {pair.pair_id: group_of(pair) for pair in pairs}):
        share = one.second_pairs / max(1, one.second_total)
        STDERR.print(
            f"{when}: {one.first or '(none)'} and {one.second or '(none)'} share {one.shared:,} groups, "
            f"{share:.1%} of the pairs in {one.second or '(none)'}",
            highlight=False,
            soft_wrap=True,
        )


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error; gone when it is done."""
    from rich.progress import Progress

    with Progress(console=STDERR, transient=True) as bar:
        task = bar.add_task("", total=None)

        def update(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield update
