from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from clinical_clip.errors import OptionError
from clinical_clip.loss.gradcache import gradcache_step
from clinical_clip.loss.infonce import info_nce
from clinical_clip.loss.siglip import siglip
from clinical_clip.model.config import DualEncoderConfig, ImageTowerConfig, LogitScaleConfig
from clinical_clip.model.dual import DualEncoder
from tests.model.make import bert_config, clip_config, pair_batch


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def loss_of(model: DualEncoder) -> Callable[[Tensor, Tensor], Tensor]:
    scale = model.logit_scale
    assert scale is not None
    return lambda image, text: info_nce(image, text, scale)


@pytest.mark.parametrize("architecture", ["tiny-resnet", "tiny-vit"])
@pytest.mark.parametrize(("chunk_size", "dtype"), [(5, torch.float64), (4, torch.float32)])
def test_equals_the_whole_batch(architecture: str, chunk_size: int, dtype: torch.dtype) -> None:
    model, image_BCHW, tokens = pair_batch(clip_config(architecture), 9)
    model.to(dtype).train()
    image_BCHW = image_BCHW.to(dtype)
    whole = loss_of(model)(*model(image_BCHW, tokens))
    whole.backward()
    expected = gradients(model)
    model.zero_grad()
    loss = gradcache_step(model, image_BCHW, tokens, loss_of(model), chunk_size)
    limit = 1e-11 if dtype == torch.float64 else 1e-5
    assert loss.item() == pytest.approx(whole.item(), rel=limit)
    found = gradients(model)
    assert found.keys() == expected.keys() == dict(model.named_parameters()).keys()
    for name, value in found.items():
        assert torch.allclose(value, expected[name], atol=limit, rtol=limit), name


@pytest.mark.parametrize("architecture", ["tiny-resnet", "tiny-vit"])
def test_dropout_draws_the_same_in_both_passes(architecture: str) -> None:
    model, image_BCHW, tokens = pair_batch(bert_config(architecture, frozen_layers=0), 8)
    model.train()
    torch.manual_seed(5)
    images, texts = zip(*(model(image_BCHW[i : i + 4], tokens[i : i + 4]) for i in (0, 4)), strict=True)
    whole = loss_of(model)(torch.cat(images), torch.cat(texts))
    whole.backward()
    expected = gradients(model)
    model.zero_grad()
    torch.manual_seed(5)
    loss = gradcache_step(model, image_BCHW, tokens, loss_of(model), 4)
    assert loss.item() == pytest.approx(whole.item(), rel=1e-6)
    for name, value in gradients(model).items():
        assert torch.allclose(value, expected[name], atol=1e-6, rtol=1e-5), name


def test_dropout_is_on_in_that_test() -> None:
    model, image_BCHW, tokens = pair_batch(bert_config(frozen_layers=0), 8)
    torch.manual_seed(5)
    first = gradcache_step(model, image_BCHW, tokens, loss_of(model), 4)
    torch.manual_seed(6)
    assert gradcache_step(model, image_BCHW, tokens, loss_of(model), 4).item() != first.item()


def test_the_random_state_goes_on_as_after_one_pass() -> None:
    model, image_BCHW, tokens = pair_batch(bert_config(frozen_layers=0), 4)
    torch.manual_seed(5)
    with torch.no_grad():
        model(image_BCHW[:2], tokens[:2])
        model(image_BCHW[2:], tokens[2:])
    expected = torch.rand(3)
    torch.manual_seed(5)
    gradcache_step(model, image_BCHW, tokens, loss_of(model), 2)
    assert torch.equal(torch.rand(3), expected)


def test_accumulates_with_its_weight() -> None:
    model, image_BCHW, tokens = pair_batch(clip_config(), 6)
    gradcache_step(model, image_BCHW, tokens, loss_of(model), 2)
    once = gradients(model)
    gradcache_step(model, image_BCHW, tokens, loss_of(model), 2, loss_weight=0.5)
    for name, value in gradients(model).items():
        assert torch.allclose(value, 1.5 * once[name], atol=1e-6), name


def test_the_bias_of_siglip_gets_its_gradient() -> None:
    config = clip_config(logit_scale=LogitScaleConfig(init=2.3, bias=-10.0))
    model, image_BCHW, tokens = pair_batch(config, 6)
    gradcache_step(
        model, image_BCHW, tokens, lambda i, t: siglip(i, t, model.logit_scale, model.logit_bias), 2
    )
    cached = gradients(model)
    model.zero_grad()
    siglip(*model(image_BCHW, tokens), model.logit_scale, model.logit_bias).backward()
    assert cached["logit_bias"].item() != 0
    for name, value in gradients(model).items():
        assert torch.allclose(value, cached[name], atol=1e-5), name


@pytest.mark.parametrize("policy", ["train", "sync"])
def test_batch_statistics_are_refused(policy: str) -> None:
    image = ImageTowerConfig(architecture="tiny-resnet", batchnorm=policy)
    config = DualEncoderConfig(image=image, text=clip_config().text)
    model, image_BCHW, tokens = pair_batch(config, 4)
    with pytest.raises(OptionError, match="every chunk would see others"):
        gradcache_step(model, image_BCHW, tokens, loss_of(model), 2)


def test_a_loss_that_is_not_finite_touches_no_gradient() -> None:
    model, image_BCHW, tokens = pair_batch(clip_config(), 4)
    image_BCHW[2] = torch.nan
    loss = gradcache_step(model, image_BCHW, tokens, loss_of(model), 2)
    assert not torch.isfinite(loss)
    assert gradients(model) == {}


def test_chunks_of_nothing_are_refused() -> None:
    model, image_BCHW, tokens = pair_batch(clip_config(), 2)
    with pytest.raises(OptionError, match="chunks of 0"):
        gradcache_step(model, image_BCHW, tokens, loss_of(model), 0)
