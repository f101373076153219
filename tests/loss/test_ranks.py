"""Two gloo processes against one process and against open_clip's own losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor, nn
from torch.nn import functional

from clinical_clip.loss.convirt import convirt
from clinical_clip.loss.gather import all_gather_with_grad, average_gradients
from clinical_clip.loss.gradcache import gradcache_step
from clinical_clip.loss.infonce import info_nce, same_text_mask
from clinical_clip.loss.siglip import siglip
from clinical_clip.model.config import DualEncoderConfig, ImageTowerConfig
from tests.loss.ranks import on_two_ranks
from tests.model.make import bert_config, clip_config, pair_batch

COUNT, WIDTH = 6, 8
IDS = torch.tensor([1, 2, 3, 4, 1, 2])
SCALE, BIAS = 2.0, -3.0


def inputs(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(COUNT, WIDTH, generator=generator, dtype=dtype) for _ in range(2)]


def losses(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, ids: Tensor, gather: Any
) -> dict[str, Tensor]:
    options = {} if gather is None else {"gather": gather}
    mask = same_text_mask(ids, **options)
    return {
        "infonce": info_nce(image, text, scale, **options),
        "masked": info_nce(image, text, scale, mask_same=mask, **options),
        "convirt": convirt(image, text, **options),
        "siglip": siglip(image, text, scale, bias, **options),
    }


def peers(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, rank: int) -> dict[str, Tensor]:
    unit_i, unit_t = functional.normalize(image, dim=1), functional.normalize(text, dim=1)
    common = {"rank": rank, "world_size": 2}
    return {
        "infonce-local": ClipLoss(local_loss=True, gather_with_grad=True, **common)(
            unit_i, unit_t, scale.exp()
        ),
        "infonce-whole": ClipLoss(gather_with_grad=True, **common)(unit_i, unit_t, scale.exp()),
        "siglip-gather": SigLipLoss(dist_impl="gather", **common)(unit_i, unit_t, scale.exp(), bias),
    }


def rank_losses(rank: int) -> dict[str, Tensor]:
    half = slice(rank * COUNT // 2, (rank + 1) * COUNT // 2)
    found = {}

    def keep(make: Any) -> None:
        for name in list(make(*leaves())):
            image, text, scale, bias = leaves()
            loss = make(image, text, scale, bias)[name]
            loss.backward()
            found[f"{name}/loss"] = loss.detach()
            for part, leaf in zip(
                ("image", "text", "scale", "bias"), (image, text, scale, bias), strict=True
            ):
                found[f"{name}/{part}"] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad

    def leaves() -> list[Tensor]:
        image, text = (value[half].clone().requires_grad_() for value in inputs())
        scale, bias = (torch.tensor(value, requires_grad=True) for value in (SCALE, BIAS))
        return [image, text, scale, bias]

    keep(lambda i, t, s, b: losses(i, t, s, b, IDS[half], all_gather_with_grad))
    keep(lambda i, t, s, b: peers(i, t, s, b, rank))
    return found | models(rank)


def model_config(policy: str) -> DualEncoderConfig:
    if policy == "vit":
        return clip_config()
    return bert_config(image=ImageTowerConfig(architecture="tiny-resnet", batchnorm=policy))


def models(rank: int) -> dict[str, Tensor]:
    """One step's gradients of whole models: data parallel, synchronised BatchNorm, GradCache across ranks."""
    found = {}
    for policy in ("sync", "frozen", "vit"):
        model, image_BCHW, tokens = pair_batch(model_config(policy), 8)
        model.text.eval()  # dropout would differ between one process and two
        half = slice(rank * 4, rank * 4 + 4)
        parallel = nn.parallel.DistributedDataParallel(model)
        image, text = parallel(image_BCHW[half], tokens[half])
        loss = info_nce(image, text, model.logit_scale, gather=all_gather_with_grad)
        loss.backward()
        found |= kept(f"ddp-{policy}", model, loss)
        if policy != "sync":
            model.zero_grad()
            with parallel.no_sync():
                loss = gradcache_step(
                    model,
                    image_BCHW[half],
                    tokens[half],
                    lambda i, t, scale=model.logit_scale: info_nce(i, t, scale, gather=all_gather_with_grad),
                    2,
                )
            average_gradients(model.parameters())
            found |= kept(f"cache-{policy}", model, loss)
    return found


def kept(label: str, model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    values = {f"{label}/{name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    buffers = {f"{label}/{name}": b.clone() for name, b in model.named_buffers() if "running" in name}
    return values | buffers | {f"{label}/loss": loss.detach()}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    return on_two_ranks(tmp_path_factory.mktemp("ranks"), rank_losses)


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Tensor]]:
    found = {}
    for name in ("infonce", "masked", "convirt", "siglip"):
        image, text = (value.requires_grad_() for value in inputs())
        scale, bias = (torch.tensor(value, requires_grad=True) for value in (SCALE, BIAS))
        loss = losses(image, text, scale, bias, IDS, None)[name]
        loss.backward()
        zero = torch.tensor(0.0)
        found[name] = {
            "loss": loss.detach(),
            "image": zero if image.grad is None else image.grad,
            "text": zero if text.grad is None else text.grad,
            "scale": zero if scale.grad is None else scale.grad,
            "bias": zero if bias.grad is None else bias.grad,
        }
    return found


@pytest.mark.parametrize("name", ["infonce", "masked", "convirt", "siglip"])
def test_two_ranks_are_one_batch(name: str, ranks: Any, alone: Any) -> None:
    """The mean over ranks of losses and of gradients is that of one process with all the pairs."""
    one = alone[name]
    assert torch.allclose(sum(r[f"{name}/loss"] for r in ranks) / 2, one["loss"], atol=1e-6)
    for part in ("image", "text"):
        both = torch.cat([r[f"{name}/{part}"] for r in ranks]) / 2
        assert torch.allclose(both, one[part], atol=1e-6), part
    for part in ("scale", "bias"):
        assert torch.allclose(sum(r[f"{name}/{part}"] for r in ranks) / 2, one[part], atol=1e-6), part


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("infonce", "infonce-local"), ("infonce", "infonce-whole"), ("siglip", "siglip-gather")],
)
def test_two_ranks_agree_with_open_clip(ours: str, theirs: str, ranks: Any) -> None:
    for part in ("image", "text"):
        for rank in ranks:
            assert torch.allclose(rank[f"{ours}/{part}"], rank[f"{theirs}/{part}"], atol=1e-6), part
    mean = [sum(r[f"{name}/loss"] for r in ranks) / 2 for name in (ours, theirs)]
    assert torch.allclose(*mean, atol=1e-6)


@pytest.mark.parametrize("label", ["ddp-sync", "ddp-frozen", "ddp-vit", "cache-frozen", "cache-vit"])
def test_a_step_of_two_ranks_is_a_step_of_one(label: str, ranks: Any) -> None:
    policy = label.partition("-")[2]
    model, image_BCHW, tokens = pair_batch(model_config(policy), 8)
    model.text.eval()
    loss = info_nce(*model(image_BCHW, tokens), model.logit_scale)
    loss.backward()
    one = kept(label, model, loss)
    assert torch.allclose(sum(r[f"{label}/loss"] for r in ranks) / 2, one.pop(f"{label}/loss"), atol=1e-6)
    if policy != "vit":
        assert any("running_mean" in name for name in one)
    for name, value in one.items():
        for rank in ranks:
            assert torch.allclose(rank[name], value, atol=2e-5, rtol=1e-4), name
