"""Train a recipe from its first step to the model's folder, its curves and its card."""

from __future__ import annotations

from pathlib import Path

from clinical_clip.data.pairs import PairSet
from clinical_clip.errors import OptionError
from clinical_clip.model.checkpoint import save_model
from clinical_clip.model.weights import load_strictly
from clinical_clip.train.card import write_card
from clinical_clip.train.checkpoint import CheckpointStore
from clinical_clip.train.config import RunConfig
from clinical_clip.train.distributed import World, open_world
from clinical_clip.train.log import plot_curves
from clinical_clip.train.trainer import Counts, TrainResult

__all__ = ["train"]


def train(
    config: RunConfig,
    *,
    data: PairSet,
    validation: PairSet,
    out: Path,
    resume: bool = True,
    device: str = "auto",
) -> TrainResult:
    """Train ``config`` and write everything under ``out``.

    ::

        steps.csv, validation.csv, tensorboard/   what it measured
        checkpoints/                              the last ones and the best
        model/                                    the best one, complete in itself
        curves.png, card.md, run.json             when it is done

    Started again with the same arguments, it goes on from the last whole checkpoint; a finished run is
    finished at once. Under ``torchrun`` all processes call it alike.

    Args:
        data, validation: pairs to learn from, and pairs that choose the best checkpoint.
        resume: False refuses a folder that holds a run.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        TrainingError: a non-finite loss, too few pairs, a folder of another run.
        WeightsError: starting weights are missing or are others.
        StoreError: the disk is full, or the folder cannot be written.
    """
    with open_world(device) as world:
        if config.model.text is None:
            return _keep(config, data=data, out=out, world=world)
        trainer = config.build(data=data, validation=validation, out=out, world=world)
        result = trainer.run(resume=resume)
        if world.leads and result.status == "done":
            _finish(config, result, data=data, validation=validation, world=world)
        world.barrier()
        return result


def _keep(config: RunConfig, *, data: PairSet, out: Path, world: World) -> TrainResult:
    """A model of images alone, which nothing here can train: its starting weights are the result."""
    if config.epochs:
        raise OptionError(
            "a model without a text tower learns nothing from captions",
            where=f"recipe {config.name}",
            hint="set epochs to 0, or give it a text tower",
        )
    result = TrainResult(
        status="done", out=out, steps=0, epochs=0, validation={}, counts=Counts(), pairs_per_s=0.0
    )
    if world.leads:
        digest = save_model(config.model.build(seed=config.seed).eval(), out / "model")
        write_card(config, result, data=data, validation=None, model_sha256=digest, world=world.size)
    return result


def _finish(
    config: RunConfig, result: TrainResult, *, data: PairSet, validation: PairSet, world: World
) -> None:
    """Export the best checkpoint, draw the curves, write the card."""
    store = CheckpointStore(result.out / "checkpoints", keep=config.keep)
    best = store.best()
    if best is None:
        raise AssertionError("a finished run has been validated")
    model = config.model.build(seed=config.seed)
    load_strictly(model, store.load(best[0]).weights, where=best[0].name)
    digest = save_model(model.eval(), result.out / "model")
    plot_curves(result.out, result.out / "curves.png")
    write_card(config, result, data=data, validation=validation, model_sha256=digest, world=world.size)
