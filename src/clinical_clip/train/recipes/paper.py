"""Every row of the published table that is not a random ranking, as complete runs.

What the source states: the families, their towers and starts, ROCO, 100 epochs, Adam, 3e-6 to fine-tune
CLIP and 3e-5 otherwise. Our choices, where it is silent: Adam's other numbers, batch 32, no weight decay, a
constant rate, bf16 autocast over float32 weights, seed 42, 6 frozen layers of ClinicalBERT, BatchNorm's
running statistics frozen in CLIP's ResNets and synchronised over ranks in both rows of ConVIRT. The rows
without training have no epochs: they keep their starting weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clinical_clip.model.methods import ROWS, Row
from clinical_clip.train.config import DataConfig, LossConfig, OptimConfig, RunConfig

__all__ = ["EPOCHS", "LR", "LR_FINE_TUNE", "Weights", "paper_recipes", "recipe_name", "row_recipe"]

EPOCHS = 100
LR_FINE_TUNE = 3e-6
LR = 3e-5
_CONVIRT_TEMPERATURE = 0.1
_CONVIRT_IMAGE_WEIGHT = 0.75


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where starting weights are.

    Attributes:
        folder: laid out as ``clinical_clip.model.methods`` says.
        checked: OpenAI's archives must have their published digests. False for weights of one's own.
    """

    folder: Path = Path("weights")
    checked: bool = True


def recipe_name(row: Row) -> str:
    """How a row is called on the command line.

    >>> [recipe_name(row) for row in ROWS[:6:5]]
    ['imagenet', 'convirt-random']
    """
    if row.method == "imagenet":
        return "imagenet"
    if row.method == "convirt":
        return f"convirt-{row.start}"
    family = "clip-roco" if row.method == "clip" and row.trained else row.method
    return f"{family}-{row.image.lower()}"


def row_recipe(row: Row, weights: Weights) -> RunConfig:
    """The complete run of one row."""
    convirt = row.method == "convirt"
    return RunConfig(
        name=recipe_name(row),
        model=row.config(weights=weights.folder, check_digest=weights.checked),
        loss=(
            LossConfig(kind="convirt", temperature=_CONVIRT_TEMPERATURE, image_weight=_CONVIRT_IMAGE_WEIGHT)
            if convirt
            else LossConfig(kind="info_nce")
        ),
        data=DataConfig(augmentation="convirt", caption="sentence") if convirt else DataConfig(),
        optim=OptimConfig(lr=LR_FINE_TUNE if row.method == "clip" else LR),
        epochs=EPOCHS if row.trained else 0,
    )


def paper_recipes() -> dict[str, Callable[[Weights], RunConfig]]:
    """Every row by name, in the table's order."""
    return {recipe_name(row): _of(row) for row in ROWS}


def _of(row: Row) -> Callable[[Weights], RunConfig]:
    return lambda weights: row_recipe(row, weights)
