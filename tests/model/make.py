"""Tiny models and files in the published formats."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP

from clinical_clip.model.config import (
    DualEncoderConfig,
    HeadConfig,
    ImageTowerConfig,
    TextTowerConfig,
    WeightsSpec,
)
from clinical_clip.model.random_weights import save_openai_archive

TEXTS = [
    "Chest X-ray with a right pleural effusion.",
    "CT",
    "Axial T2-weighted MR image of the brain: a small lesion in the left thalamus, no mass effect.",
]
TEXT_NUMBERS = {"context_length": 32, "vocab_size": 512, "width": 64, "heads": 2, "layers": 2}
VISION = {
    "tiny-vit": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32},
    "tiny-resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8},
}


def clip_config(architecture: str = "tiny-vit", **changes: Any) -> DualEncoderConfig:
    values: dict[str, Any] = {
        "image": ImageTowerConfig(architecture=architecture),
        "text": TextTowerConfig(kind="clip", architecture="tiny-clip", pooling="eot", max_tokens=16),
    }
    return DualEncoderConfig(**{**values, **changes})


def bert_config(
    architecture: str = "tiny-vit", *, frozen_layers: int = 1, **changes: Any
) -> DualEncoderConfig:
    values: dict[str, Any] = {
        "image": ImageTowerConfig(architecture=architecture),
        "text": TextTowerConfig(kind="bert", architecture="tiny-bert", frozen_layers=frozen_layers),
        "text_head": HeadConfig(kind="linear", width=32),
    }
    return DualEncoderConfig(**{**values, **changes})


def peer(architecture: str = "tiny-vit", *, quick_gelu: bool = True, seed: int = 3) -> CLIP:
    """open_clip's own CLIP of the tiny sizes, with BatchNorm statistics that say something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(32, vision_cfg=dict(VISION[architecture]), text_cfg=TEXT_NUMBERS, quick_gelu=quick_gelu)
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if name.endswith("running_var") or name.endswith("bn3.weight"):
                    value.uniform_(0.5, 1.5)
                elif name.endswith("running_mean"):
                    value.normal_(std=0.1)
            model.logit_scale.fill_(3.25)
    return model.eval()


def write_archive(path: Path, model: CLIP) -> WeightsSpec:
    """The model as one of OpenAI's archives. Its weights become half precision in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    save_openai_archive(model, stream)
    path.write_bytes(stream.getvalue())
    model.float()
    return WeightsSpec(format="openai", path=str(path))


def pair_batch(config: DualEncoderConfig, count: int, *, seed: int = 0) -> tuple[Any, torch.Tensor, Any]:
    """A built model, random images for it and tokens of varied lengths."""
    model = config.build(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    size = model.preprocess.size
    image_BCHW = torch.randn(count, 3, size, size, generator=generator)
    words = ["chest", "lung", "left", "right", "mass", "lesion", "effusion", "scan", "view", "arrow"]
    texts = [" ".join(words[(i * 7 + j) % 10] for j in range(1 + i % 5)) for i in range(count)]
    return model, image_BCHW, model.tokenize(texts)
