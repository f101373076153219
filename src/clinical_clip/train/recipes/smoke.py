"""Every family at a size that trains in a second, to prove the machinery and guard it by golden losses."""

from __future__ import annotations

from dataclasses import replace

from clinical_clip.model.config import (
    DualEncoderConfig,
    HeadConfig,
    ImageArchitecture,
    ImageTowerConfig,
    LogitScaleConfig,
    TextTowerConfig,
)
from clinical_clip.train.config import DataConfig, LossConfig, OptimConfig, RunConfig

__all__ = ["smoke_recipes"]

_WIDTH = 32
_DATA = DataConfig(batch_size=8, workers=0)
_OPTIM = OptimConfig(lr=2e-4)


def _run(name: str, model: DualEncoderConfig) -> RunConfig:
    return RunConfig(
        name=f"smoke-{name}",
        model=model,
        data=_DATA,
        optim=_OPTIM,
        epochs=2,
        precision="fp32",
        checkpoint_steps=2,
    )


def _bert(pooling: str) -> TextTowerConfig:
    return TextTowerConfig(
        kind="bert",
        architecture="tiny-bert",
        pooling="max" if pooling == "max" else "pooler",
        max_tokens=48,
        frozen_layers=1,
    )


def _clip(name: str, image: ImageArchitecture) -> RunConfig:
    text = TextTowerConfig(kind="clip", architecture="tiny-clip", pooling="eot", max_tokens=32)
    return _run(name, DualEncoderConfig(image=ImageTowerConfig(architecture=image), text=text))


def _clinical_clip(name: str, image: ImageArchitecture) -> RunConfig:
    model = DualEncoderConfig(
        image=ImageTowerConfig(architecture=image),
        text=_bert("pooler"),
        text_head=HeadConfig(kind="linear", width=_WIDTH),
    )
    return _run(name, model)


def _convirt() -> RunConfig:
    model = DualEncoderConfig(
        image=ImageTowerConfig(architecture="tiny-resnet", batchnorm="sync"),
        text=_bert("max"),
        image_head=HeadConfig(kind="mlp", width=_WIDTH),
        text_head=HeadConfig(kind="mlp", width=_WIDTH),
        logit_scale=None,
        retrieval="before_head",
    )
    data = replace(_DATA, augmentation="convirt", caption="sentence")
    return replace(_run("convirt", model), loss=LossConfig(kind="convirt"), data=data)


def _siglip() -> RunConfig:
    model = DualEncoderConfig(
        image=ImageTowerConfig(architecture="tiny-vit"),
        text=_bert("pooler"),
        text_head=HeadConfig(kind="linear", width=_WIDTH),
        logit_scale=LogitScaleConfig(init=2.302585092994046, bias=-10.0),
    )
    return replace(_run("siglip", model), loss=LossConfig(kind="siglip"))


def smoke_recipes() -> dict[str, RunConfig]:
    """Every family by name."""
    runs = (
        _clip("clip-rn", "tiny-resnet"),
        _clip("clip-vit", "tiny-vit"),
        _clinical_clip("clinical-clip-rn", "tiny-resnet"),
        _clinical_clip("clinical-clip-vit", "tiny-vit"),
        _convirt(),
        _siglip(),
    )
    return {run.name: run for run in runs}
