"""``clinical-clip train``: a recipe by name, on pairs, into a folder; and what proves the machinery."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from clinical_clip.data.pairs import PairSet
    from clinical_clip.train.config import RunConfig

__all__ = ["train_app"]


class _RecipeOrVerb(TyperGroup):
    """``train NAME`` is ``train run NAME`` unless NAME is one of the verbs."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb, or ``run`` with the recipe's name left among its arguments."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


train_app = typer.Typer(
    cls=_RecipeOrVerb,
    no_args_is_help=True,
    help="Train a recipe: clinical-clip train RECIPE --data DATA --out FOLDER. `train list` names them.",
)

DataPath = Annotated[
    Path | None,
    typer.Option("--data", help="Pairs: ROCO, ROCOv2, their Parquet copies, CheXpert, shards or a manifest."),
]
ImagesPath = Annotated[
    Path | None, typer.Option("--images", help="Folder of the images, where it is not the data set's own.")
]
WeightsPath = Annotated[
    Path, typer.Option("--weights", help="Folder of the starting weights; see the guide.")
]
Unchecked = Annotated[
    bool, typer.Option("--own-weights", help="Take weights whose digests are not the published ones.")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads of torch.")]


@train_app.command("run", hidden=True)
def run(
    recipe_name: Annotated[str, typer.Argument(metavar="RECIPE", help="See `clinical-clip train list`.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command again resumes it.")],
    *,
    data: DataPath = None,
    images: ImagesPath = None,
    weights: WeightsPath = Path("weights"),
    own_weights: Unchecked = False,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Take captions made from labels where there are no others.")
    ] = False,
    validation_split: Annotated[str, typer.Option(help="Split that chooses the best.")] = "validation",
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's 42.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=0, help="Stop after so many optimizer steps.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Loader processes of each rank.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Threads = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Refuse a folder that holds a run.")] = False,
) -> None:
    """Train RECIPE on the training split of DATA; the same command again resumes it.

    Exit status 75: a signal stopped it, and its checkpoint is written. torchrun starts it on several GPUs:
    torchrun --standalone --nproc-per-node 4 -m clinical_clip train RECIPE ...
    """
    _need_torch()
    from clinical_clip.errors import OptionError
    from clinical_clip.train.config import with_changes
    from clinical_clip.train.distributed import use_threads
    from clinical_clip.train.loop import train
    from clinical_clip.train.preempt import REQUEUE_STATUS
    from clinical_clip.train.recipes import Weights, recipe

    if data is None:
        raise OptionError(
            "no pairs to learn from", where="--data", hint="give a data set, or try `train smoke`"
        )
    use_threads(threads)
    changes = {"seed": seed, "max_steps": max_steps, "data__workers": workers}
    config = with_changes(
        recipe(recipe_name, Weights(folder=weights, checked=not own_weights)),
        **{name: value for name, value in changes.items() if value is not None},
    )
    pairs = _open(data, images, synthetic=synthetic)
    result = train(
        config,
        data=pairs.split("train"),
        validation=pairs.split(validation_split),
        out=out,
        resume=not fresh,
        device=device,
    )
    _show(config, result)
    if result.status == "stopped":
        raise typer.Exit(REQUEUE_STATUS)


@train_app.command("list")
def list_recipes() -> None:
    """Every recipe: image tower, text tower, loss, learning rate, epochs, batch."""
    _need_torch()
    from clinical_clip.errors import MissingDependency
    from clinical_clip.train.recipes import Weights, recipes

    print(
        f"{'recipe':24} {'image tower':19} {'text tower':24} {'loss':9} "
        f"{'rate':>6} {'epochs':>6} {'batch':>5}"
    )
    for name, make in recipes().items():
        try:
            config = make(Weights())
        except MissingDependency as error:
            print(f"{name:24} not here: {error}")
            continue
        text = config.model.text
        words = "-" if text is None else f"{text.kind} {text.architecture}, {text.pooling}"
        rate = f"{config.optim.lr:g}" if config.epochs else "-"
        print(
            f"{name:24} {config.model.image.architecture:19} {words:24} {config.loss.kind:9} "
            f"{rate:>6} {config.epochs:>6} {config.data.batch_size:>5}"
        )


@train_app.command("smoke")
def smoke(out: Annotated[Path, typer.Option(help="Folder for the runs.")], *, threads: Threads = 1) -> None:
    """Train every family for some steps on made pairs: proves that training works here."""
    _need_torch()
    from clinical_clip.train.distributed import use_threads
    from clinical_clip.train.loop import train
    from clinical_clip.train.made import make_pairs
    from clinical_clip.train.recipes import smoke_recipes

    use_threads(threads)
    pairs = make_pairs(out / "made", 48)
    for name, config in smoke_recipes().items():
        result = train(
            config, data=pairs.split("train"), validation=pairs.split("validation"), out=out / name
        )
        _show(config, result)


@train_app.command("check-rows")
def check_rows(
    *,
    data: DataPath = None,
    images: ImagesPath = None,
    weights: Annotated[
        Path | None, typer.Option(help="Keep the random weights here; missing ones are written (1.6 GB).")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=2, help="Pairs a step.")] = 2,
    threads: Threads = None,
) -> None:
    """Build every row of the table at full size, take two steps, reload the checkpoint: a line a row.

    Weights are random, in the published formats. Pairs are those of --data, or drawn ones.
    """
    _need_torch()
    import tempfile

    from clinical_clip.train.rows import check_rows as check

    pairs = [pair for pair in _open(data, images, synthetic=False) if pair.has_image] if data else []
    print(f"{'row':26} {'image':>10} {'text':>11} {'heads':>9} published  step s  peak GB  reloads  losses")
    with tempfile.TemporaryDirectory() as scratch:
        for found in check(pairs, weights=weights or Path(scratch), batch_size=batch_size, threads=threads):
            image, text, heads = found.parameters
            losses = " ".join(f"{loss:.4f}" for loss in found.losses)
            print(
                f"{found.row:26} {image:>10,} {text:>11,} {heads:>9,} {_yes(found.as_published):>9} "
                f"{found.step_s:>7.2f} {found.peak_bytes / 1e9:>8.2f} {_yes(found.reloads):>8}  {losses}",
                flush=True,
            )


def _open(data: Path, images: Path | None, *, synthetic: bool) -> PairSet:
    from clinical_clip.data.pairs import open_pairs

    return open_pairs(data, images=images, synthetic=synthetic)


def _yes(value: bool) -> str:
    return "yes" if value else "NO"


def _show(config: RunConfig, result: Any) -> None:
    from clinical_clip.cli.show import STDERR

    loss = f", validation loss {result.validation['loss']:.4f}" if result.validation else ""
    end = "done" if result.status == "done" else "stopped; the same command goes on"
    STDERR.print(
        f"{config.name}: {result.steps:,} steps{loss}, {result.pairs_per_s:.1f} pairs/s → {result.out} "
        f"({end})"
    )


def _need_torch() -> None:
    from importlib.util import find_spec

    from clinical_clip.errors import MissingDependency

    if find_spec("torch") is None:
        raise MissingDependency("training needs torch", hint="pip install 'clinical-clip[train]'")
