"""Both towers as one module with one ``forward``, which is what DDP and FSDP2 wrap."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from clinical_clip.errors import OptionError
from clinical_clip.model.dual import DualEncoder
from clinical_clip.model.text_towers import TextTower
from clinical_clip.model.tokens import TokenBatch
from clinical_clip.train.distributed import World

__all__ = ["Towers", "autocast", "encode", "parallelise", "text_tower"]


class Towers(nn.Module):
    """uint8 images and tokens → features in float32, before L2-normalisation.

    Args:
        channels_last: lay out the image tower and its input as convolutions like it best.
    """

    def __init__(self, model: DualEncoder, *, channels_last: bool = False) -> None:
        super().__init__()
        self.model = model
        self._channels_last = channels_last
        if channels_last:
            model.image.to(memory_format=torch.channels_last)

    def forward(
        self, image_BHWC: Tensor, tokens: TokenBatch, cached: Tensor | None = None, retrieval: bool = False
    ) -> tuple[Tensor, ...]:
        """(image_BD, text_BD), and with ``retrieval`` the unit vectors (B, R) that images are searched by.

        Args:
            cached: what ``TextCache`` keeps: (B, L, W) in front of the trained layers, or (B, W) behind a
                frozen tower.
        """
        model = self.model
        image_BCHW = model.preprocess.normalise(image_BHWC)
        if self._channels_last:
            image_BCHW = image_BCHW.contiguous(memory_format=torch.channels_last)
        image_BD = model.encode_image(image_BCHW)
        if cached is None:
            text_BD = model.encode_text(tokens)
        elif cached.ndim == 2:
            text_BD = model.text_head(cached)
        else:
            text_BD = model.text_head(text_tower(model).upper(cached, tokens))
        if not retrieval:
            return image_BD.float(), text_BD.float()
        if model.config.retrieval == "after_head":
            unit_BR = functional.normalize(image_BD.float(), dim=1)
        else:
            unit_BR = model.retrieval_features(image_BCHW)
        return image_BD.float(), text_BD.float(), unit_BR


def text_tower(model: DualEncoder) -> TextTower:
    """The model's text tower.

    Raises:
        OptionError: the model has images alone, and contrastive training needs both.
    """
    if model.text is None:
        raise OptionError(
            "a model without a text tower cannot be trained", where="model.text", hint="set one"
        )
    return model.text


def autocast(device: torch.device, precision: Literal["fp32", "bf16"]) -> torch.autocast:
    """bfloat16 where it is safe, or nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def encode(
    towers: nn.Module,
    image_BHWC: Tensor,
    tokens: TokenBatch,
    cached: Tensor | None = None,
    *,
    precision: Literal["fp32", "bf16"],
    retrieval: bool = False,
) -> tuple[Tensor, ...]:
    """``towers`` under the run's precision."""
    with autocast(image_BHWC.device, precision):
        features: tuple[Tensor, ...] = towers(image_BHWC, tokens, cached, retrieval)
    return features


def parallelise(towers: Towers, world: World, *, kind: Literal["ddp", "fsdp2"], compiled: bool) -> nn.Module:
    """``towers`` as the processes of ``world`` share them; as it is in a world of one.

    Under ``fsdp2`` every block of both towers is a unit of its own; the scalars of the loss stay whole.
    """
    module: nn.Module = torch.compile(towers) if compiled else towers  # type: ignore[assignment]
    if world.size == 1:
        return module
    if kind == "ddp":
        devices = [world.device.index] if world.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in _blocks(towers.model):
        fully_shard(block, mesh=mesh)
    scalars = {p for p in (towers.model.logit_scale, towers.model.logit_bias) if p is not None}
    fully_shard(towers, mesh=mesh, ignored_params=scalars)
    return module


def _blocks(model: DualEncoder) -> list[nn.Module]:
    body = model.image.body
    transformer = getattr(body, "transformer", None)
    if transformer is not None:
        image = list(transformer.resblocks)
    else:
        image = [
            getattr(body, name) for name in ("layer1", "layer2", "layer3", "layer4") if hasattr(body, name)
        ]
    return [*image, *text_tower(model).layers()]
