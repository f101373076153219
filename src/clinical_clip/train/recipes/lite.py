"""A run for two CPU cores: EfficientNet-lite0 from ImageNet against a frozen general MiniLM.

Both starts come with packages, so that the run needs no download. None of this is the paper's: it is
Clinical CLIP's idea at a size that learns in minutes. The text tower is frozen and computed once; equal
texts are no negatives of each other, since small collections repeat their captions.
"""

from __future__ import annotations

from clinical_clip.model.config import (
    DualEncoderConfig,
    HeadConfig,
    ImagePreprocessingConfig,
    ImageTowerConfig,
    TextTowerConfig,
)
from clinical_clip.model.methods import lite0_weights, minilm_folder
from clinical_clip.model.preprocess import LITE_MEAN, LITE_STD
from clinical_clip.train.config import DataConfig, LossConfig, OptimConfig, RunConfig

__all__ = ["lite"]

_LAYERS = 6
_WIDTH = 384
_SIZE_PX = 128


def lite() -> RunConfig:
    """EfficientNet-lite0 at 128 px and MiniLM-L6, InfoNCE, four epochs.

    Raises:
        MissingDependency: a package of weights is not installed.
    """
    model = DualEncoderConfig(
        image=ImageTowerConfig(
            architecture="efficientnet-lite0",
            weights=lite0_weights(),
            image_size=_SIZE_PX,
            batchnorm="frozen",
            preprocessing=ImagePreprocessingConfig(
                size=_SIZE_PX, resize="pad", interpolation="area", mean=LITE_MEAN, std=LITE_STD
            ),
        ),
        text=TextTowerConfig(
            kind="bert",
            architecture="minilm-l6",
            source=minilm_folder(),
            pooling="mean",
            max_tokens=128,
            frozen_layers=_LAYERS,
        ),
        image_head=HeadConfig(kind="linear", width=_WIDTH),
        retrieval="before_head",
    )
    return RunConfig(
        name="lite",
        model=model,
        loss=LossConfig(kind="info_nce", mask_same_text=True),
        data=DataConfig(batch_size=64, workers=1),
        optim=OptimConfig(lr=3e-4, lr_scales=(("heads", 3.0),), schedule="cosine", warmup_steps=20),
        epochs=4,
        precision="fp32",
        text_cache=True,
        checkpoint_steps=200,
    )
