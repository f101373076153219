"""Every row of the published table that is not a random ranking, as complete runs.

What the source states: the families, their towers and starts, ROCO, 100 epochs, Adam, 3e-6 to fine-tune
CLIP and 3e-5 otherwise. Our choices, where it is silent: Adam's other numbers, batch 32, no weight decay, a
constant rate, bf16 autocast over float32 weights, seed 42, 6 frozen layers of ClinicalBERT, BatchNorm's
running statistics frozen in CLIP's ResNets and synchronised over ranks in ConVIRT. ``general`` rows learn
nothing: they have no epochs and keep their starting weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from clinical_clip.model.config import (
    DualEncoderConfig,
    HeadConfig,
    ImageTowerConfig,
    LogitScaleConfig,
    TextTowerConfig,
    WeightsSpec,
)
from clinical_clip.model.weights import OPENAI_SHA256
from clinical_clip.train.config import DataConfig, LossConfig, OptimConfig, RunConfig

__all__ = ["CLIP_ARCHITECTURES", "EPOCHS", "Weights", "paper_recipes"]

ClipArchitecture = Literal["RN50", "RN101", "RN50x4", "ViT-B-32"]

EPOCHS = 100
CLIP_ARCHITECTURES: tuple[ClipArchitecture, ...] = ("RN50", "RN101", "RN50x4", "ViT-B-32")

_CLIP_WIDTHS = {"RN50": 1024, "RN101": 512, "RN50x4": 640, "ViT-B-32": 512}
_CLIP_TOKENS = 77
_BERT_TOKENS = 256
_FROZEN_LAYERS = 6
_LR_FINE_TUNE = 3e-6
_LR = 3e-5
_CONVIRT_WIDTH = 512
_CLINICAL_BERT = "emilyalsentzer/Bio_ClinicalBERT"
_RESNET50_SHA256 = "0676ba61"  # the digits in torchvision's own file name, of IMAGENET1K_V1


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where starting weights are.

    Attributes:
        folder: holds ``openai/RN50.pt`` and its like, ``Bio_ClinicalBERT/`` (else the hub's name is used)
            and ``resnet50-imagenet.pth`` or ``.safetensors``.
        checked: published files must have their published digests. False for weights of one's own.
    """

    folder: Path = Path("weights")
    checked: bool = True

    def openai(self, architecture: str) -> WeightsSpec:
        """OpenAI's archive."""
        digest = OPENAI_SHA256[architecture] if self.checked else None
        return WeightsSpec(
            format="openai", path=str(self.folder / "openai" / f"{architecture}.pt"), sha256=digest
        )

    def resnet50(self) -> WeightsSpec:
        """torchvision's ImageNet weights."""
        other = self.folder / "resnet50-imagenet.safetensors"
        if other.exists():
            return WeightsSpec(format="torchvision", path=str(other))
        digest = _RESNET50_SHA256 if self.checked else None
        return WeightsSpec(
            format="torchvision", path=str(self.folder / "resnet50-imagenet.pth"), sha256=digest
        )

    def clinical_bert(self) -> str:
        """Bio_ClinicalBERT's folder, or its name on the hub."""
        folder = self.folder / "Bio_ClinicalBERT"
        return str(folder) if folder.is_dir() else _CLINICAL_BERT


def clip_fine_tuned(architecture: ClipArchitecture, weights: Weights) -> RunConfig:
    """CLIP (ROCO init.): OpenAI's two towers go on learning on ROCO, at 3e-6."""
    archive = weights.openai(architecture)
    model = DualEncoderConfig(
        image=ImageTowerConfig(architecture=architecture, weights=archive, batchnorm="frozen"),
        text=TextTowerConfig(
            kind="clip", architecture=architecture, weights=archive, pooling="eot", max_tokens=_CLIP_TOKENS
        ),
        logit_scale=LogitScaleConfig(init=None),
    )
    return RunConfig(
        name=f"clip-roco-{_slug(architecture)}",
        model=model,
        loss=LossConfig(kind="info_nce"),
        optim=OptimConfig(lr=_LR_FINE_TUNE),
        epochs=EPOCHS,
    )


def clip(architecture: ClipArchitecture, weights: Weights) -> RunConfig:
    """CLIP as published: nothing learns."""
    return replace(clip_fine_tuned(architecture, weights), name=f"clip-{_slug(architecture)}", epochs=0)


def clinical_clip(architecture: ClipArchitecture, weights: Weights) -> RunConfig:
    """Clinical CLIP: CLIP's image tower and Bio_ClinicalBERT, trained on ROCO at 3e-5."""
    width = _CLIP_WIDTHS[architecture]
    model = DualEncoderConfig(
        image=ImageTowerConfig(
            architecture=architecture, weights=weights.openai(architecture), batchnorm="frozen"
        ),
        text=TextTowerConfig(
            kind="bert",
            source=weights.clinical_bert(),
            pooling="pooler",
            max_tokens=_BERT_TOKENS,
            frozen_layers=_FROZEN_LAYERS,
        ),
        text_head=HeadConfig(kind="linear", width=width),
        logit_scale=LogitScaleConfig(),
    )
    return RunConfig(
        name=f"clinical-clip-{_slug(architecture)}",
        model=model,
        loss=LossConfig(kind="info_nce"),
        optim=OptimConfig(lr=_LR),
        epochs=EPOCHS,
    )


def convirt(start: Literal["random", "imagenet"], weights: Weights) -> RunConfig:
    """ConVIRT: ResNet-50 and ClinicalBERT, one random sentence a caption, augmented images."""
    model = DualEncoderConfig(
        image=ImageTowerConfig(
            architecture="resnet50",
            weights=weights.resnet50() if start == "imagenet" else None,
            batchnorm="sync",
        ),
        text=TextTowerConfig(
            kind="bert",
            source=weights.clinical_bert(),
            pooling="max",
            max_tokens=_BERT_TOKENS,
            frozen_layers=_FROZEN_LAYERS,
        ),
        image_head=HeadConfig(kind="mlp", width=_CONVIRT_WIDTH),
        text_head=HeadConfig(kind="mlp", width=_CONVIRT_WIDTH),
        logit_scale=None,
        retrieval="before_head",
    )
    return RunConfig(
        name=f"convirt-{start}",
        model=model,
        loss=LossConfig(kind="convirt", temperature=0.1, image_weight=0.75),
        data=DataConfig(augmentation="convirt", caption="sentence"),
        optim=OptimConfig(lr=_LR),
        epochs=EPOCHS,
    )


def imagenet(weights: Weights) -> RunConfig:
    """ImageNet's ResNet-50, untrained: ConVIRT (ImageNet init.) before its first step, searched by image."""
    return replace(convirt("imagenet", weights), name="imagenet-resnet50", epochs=0)


def _slug(architecture: str) -> str:
    return architecture.lower()


def paper_recipes() -> dict[str, Callable[[Weights], RunConfig]]:
    """Every row by name, in the table's order."""
    rows: dict[str, Callable[[Weights], RunConfig]] = {"imagenet-resnet50": imagenet}
    rows.update({f"clip-{_slug(a)}": _bind(clip, a) for a in CLIP_ARCHITECTURES})
    rows["convirt-random"] = lambda weights: convirt("random", weights)
    rows["convirt-imagenet"] = lambda weights: convirt("imagenet", weights)
    rows.update({f"clip-roco-{_slug(a)}": _bind(clip_fine_tuned, a) for a in CLIP_ARCHITECTURES})
    rows.update({f"clinical-clip-{_slug(a)}": _bind(clinical_clip, a) for a in CLIP_ARCHITECTURES})
    return rows


def _bind(
    family: Callable[[ClipArchitecture, Weights], RunConfig], architecture: ClipArchitecture
) -> Callable[[Weights], RunConfig]:
    return lambda weights: family(architecture, weights)
