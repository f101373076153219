"""A run as one frozen value: what is trained, on what terms. Paths and the data come from outside."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal

from clinical_clip.errors import OptionError
from clinical_clip.model.config import DualEncoderConfig

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from clinical_clip.data.pairs import PairSet
    from clinical_clip.model.dual import DualEncoder
    from clinical_clip.train.augment import Augmentation
    from clinical_clip.train.distributed import World
    from clinical_clip.train.objective import Objective
    from clinical_clip.train.trainer import Trainer

__all__ = ["DataConfig", "LossConfig", "OptimConfig", "RunConfig", "with_changes"]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The contrastive objective.

    Attributes:
        kind: ``info_nce`` (CLIP), ``convirt`` (Zhang et al. 2020, eq. 2-4) or ``siglip`` (Zhai et al. 2023).
        mask_same_text: pairs of one batch whose captions are equal are no negatives of each other.
        temperature, image_weight: ConVIRT's τ and λ; the others learn their temperature.
    """

    kind: Literal["info_nce", "convirt", "siglip"] = "info_nce"
    mask_same_text: bool = False
    temperature: float = 0.1
    image_weight: float = 0.75

    def build(self, model: DualEncoder) -> Objective:
        """The objective as a function of features, with the scale that ``model`` learns."""
        from clinical_clip.train.objective import Objective

        return Objective(config=self, model=model)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How pairs become batches.

    Attributes:
        augmentation: ``none`` or ConVIRT's.
        caption: the whole caption, or one random sentence of it each time it is seen.
        batch_size: pairs that are contrasted with each other, over all processes together.
        workers: loader processes of each rank; 0 loads in the training process.
    """

    augmentation: Literal["none", "convirt"] = "none"
    caption: Literal["whole", "sentence"] = "whole"
    batch_size: int = 32
    workers: int = 4

    def build(self) -> Augmentation | None:
        """The augmentation, or None."""
        from clinical_clip.train.augment import ConvirtAugmentation

        return ConvirtAugmentation() if self.augmentation == "convirt" else None


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam and its learning rate.

    Attributes:
        kind: ``adam`` (weight decay, if any, is L2) or ``adamw`` (decoupled).
        lr: learning rate of every group; ``lr_scales`` multiplies it for the groups it names, out of
            ``image``, ``text``, ``heads`` and ``logit_scale``.
        schedule: ``constant``, or ``cosine`` to ``final_lr_share`` of it; both after a linear warm-up.
        max_gradient_norm: clip to this norm; None leaves gradients alone.
    """

    kind: Literal["adam", "adamw"] = "adam"
    lr: float = 3e-5
    lr_scales: tuple[tuple[str, float], ...] = ()
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0
    final_lr_share: float = 0.0
    max_gradient_norm: float | None = None

    def build(self, model: DualEncoder) -> Optimizer:
        """The optimizer over the parameters of ``model`` that learn."""
        from clinical_clip.train.optim import build_optimizer

        return build_optimizer(self, model)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run, complete.

    Attributes:
        name: of the recipe.
        epochs: passes over the data; 0 keeps the starting weights as they are.
        max_steps: stop after this many optimizer steps, whatever ``epochs`` says.
        precision: ``bf16`` computes under autocast; weights and optimizer stay float32 in both.
        accumulate: batches whose gradients are averaged before one update. Each batch is contrasted
            within itself: this is not a larger batch. ``gradcache_chunk`` is.
        gradcache_chunk: pairs that are encoded at a time; gradients are those of the whole batch.
        seed: of new weights, the order of pairs, sentences, augmentation and dropout.
        compile: run the towers through ``torch.compile``.
        parallel: what several processes do: ``ddp`` copies the model, ``fsdp2`` shards it.
        text_cache: compute the frozen part of the text tower once a caption and keep it by digest.
        checkpoint_steps: optimizer steps between checkpoints inside an epoch.
        keep: recent checkpoints that are kept, besides the best.
        max_rejected_share: of the pairs of an epoch; more unreadable images stop the run.
    """

    name: str
    model: DualEncoderConfig
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    epochs: int = 100
    max_steps: int | None = None
    precision: Literal["fp32", "bf16"] = "bf16"
    accumulate: int = 1
    gradcache_chunk: int | None = None
    seed: int = 42
    compile: bool = False
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    text_cache: bool = False
    checkpoint_steps: int = 1000
    keep: int = 2
    max_rejected_share: float = 0.01

    def __post_init__(self) -> None:
        _check(self)

    def to_json(self) -> dict[str, Any]:
        """Every field as plain values; of paths the last part."""
        plain: dict[str, Any] = _without_folders(dataclasses.asdict(self))
        return plain

    @property
    def digest(self) -> str:
        """SHA-256 of every field, nested ones too; of paths only the last part, so that folders may move."""
        return _digest(dataclasses.asdict(self))

    @property
    def identity(self) -> str:
        """The digest without what may change when a run goes on: its length, workers, what it keeps."""
        fields = dataclasses.asdict(self)
        for name in ("checkpoint_steps", "keep", "compile", "max_rejected_share"):
            del fields[name]
        if self.optim.schedule == "constant":  # else the rate of every step depends on the length
            del fields["epochs"], fields["max_steps"]
        del fields["data"]["workers"]
        return _digest(fields)

    def build(self, *, data: PairSet, validation: PairSet, out: Path, world: World) -> Trainer:
        """A trainer at step 0 that writes to ``out``.

        Args:
            data, validation: pairs to learn from, and pairs that choose the best checkpoint.
            out: folder of the run.
            world: the processes of the run.

        Raises:
            WeightsError: starting weights are missing or are others.
            TrainingError: fewer pairs than a batch.
        """
        from clinical_clip.train.trainer import Trainer

        return Trainer(self, data=data, validation=validation, out=out, world=world)


def _digest(fields: dict[str, Any]) -> str:
    text = json.dumps(_without_folders(fields), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: PurePath(part).name if name in ("path", "source") and part else _without_folders(part)
            for name, part in value.items()
        }
    return [_without_folders(part) for part in value] if isinstance(value, (list, tuple)) else value


def _check(config: RunConfig) -> None:
    where = f"recipe {config.name}"
    at_least = {
        "data.batch_size": (config.data.batch_size, 2),
        "data.workers": (config.data.workers, 0),
        "epochs": (config.epochs, 0),
        "max_steps": (0 if config.max_steps is None else config.max_steps, 0),
        "accumulate": (config.accumulate, 1),
        "gradcache_chunk": (1 if config.gradcache_chunk is None else config.gradcache_chunk, 1),
        "checkpoint_steps": (config.checkpoint_steps, 1),
        "keep": (config.keep, 1),
    }
    for name, (value, least) in at_least.items():
        if value < least:
            raise OptionError(f"{name} is {value}", where=where, hint=f"use {least} or more")
    if not config.optim.lr > 0:
        raise OptionError(f"optim.lr is {config.optim.lr}", where=where, hint="use a positive number")
    if config.gradcache_chunk and config.model.image.batchnorm != "frozen":
        raise OptionError(
            "GradCache with BatchNorm statistics of each chunk is not the full batch",
            where=where,
            hint="freeze BatchNorm's statistics, or leave gradcache_chunk out",
        )
    if config.gradcache_chunk and config.parallel == "fsdp2":
        raise OptionError("GradCache runs under ddp only", where=where, hint="choose one of the two")
    if config.gradcache_chunk and config.text_cache:
        raise OptionError("GradCache encodes all texts", where=where, hint="leave text_cache out")
    if config.text_cache and config.data.caption == "sentence":
        raise OptionError(
            "a text cache holds whole captions", where=where, hint="set data.caption to 'whole'"
        )


def with_changes(config: RunConfig, **changes: object) -> RunConfig:
    """``config`` with some fields replaced; nested ones by ``part__field``: ``data__workers=0``."""
    nested: dict[str, dict[str, object]] = {}
    flat: dict[str, object] = {}
    for name, value in changes.items():
        part, _, rest = name.partition("__")
        if rest:
            nested.setdefault(part, {})[rest] = value
        else:
            flat[name] = value
    for part, fields in nested.items():
        flat[part] = dataclasses.replace(getattr(config, part), **fields)
    return dataclasses.replace(config, **flat)  # type: ignore[arg-type]
