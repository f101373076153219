from __future__ import annotations

import math

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor
from torch.nn import functional

from clinical_clip.loss.convirt import convirt
from clinical_clip.loss.finite import is_finite, non_finite
from clinical_clip.loss.infonce import info_nce, same_text_mask
from clinical_clip.loss.siglip import siglip


def features(
    count: int = 6, width: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, width, generator=generator, dtype=dtype).requires_grad_() for _ in range(2)]


TWO = torch.eye(2)  # two orthogonal pairs: cosines 1 on the diagonal, 0 off it


def test_infonce_of_two_orthogonal_pairs_is_known() -> None:
    scale = torch.tensor(math.log(2.0))
    expected = -math.log(math.exp(2) / (math.exp(2) + 1))
    assert info_nce(TWO, TWO, scale).item() == pytest.approx(expected, rel=1e-6)


def test_infonce_of_swapped_pairs_is_known() -> None:
    scale = torch.tensor(math.log(2.0))
    expected = -math.log(1 / (math.exp(2) + 1))
    assert info_nce(TWO, TWO.flip(0), scale).item() == pytest.approx(expected, rel=1e-6)


def test_infonce_normalises() -> None:
    image, text = features()
    scale = torch.tensor(1.0)
    assert torch.allclose(info_nce(image * 7, text * 0.1, scale), info_nce(image, text, scale), atol=1e-6)


def test_infonce_equals_open_clip_with_gradients() -> None:
    image, text = features()
    scale = torch.tensor(2.5, requires_grad=True)
    ours = torch.autograd.grad(info_nce(image, text, scale), [image, text, scale])
    theirs_loss = ClipLoss()(
        functional.normalize(image, dim=1), functional.normalize(text, dim=1), scale.exp()
    )
    theirs = torch.autograd.grad(theirs_loss, [image, text, scale])
    assert torch.allclose(info_nce(image, text, scale), theirs_loss, atol=1e-6)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_masked_duplicate_is_no_negative() -> None:
    image, text = features(3)
    text = torch.cat([text[:2], text[:1]]).detach()  # the third text is the first again
    ids = torch.tensor([11, 22, 11])
    scale = torch.tensor(1.0)
    masked = info_nce(image, text, scale, mask_same=same_text_mask(ids))
    unit_i, unit_t = functional.normalize(image, dim=1), functional.normalize(text, dim=1)
    logits = (scale.exp() * unit_i @ unit_t.T).double()
    rows = []
    for matrix in (logits, logits.T):
        for own, others in ((0, [1]), (1, [0, 2]), (2, [1])):
            kept = matrix[own, [own, *others]]
            rows.append(torch.logsumexp(kept, 0) - matrix[own, own])
    assert masked.item() == pytest.approx(torch.stack(rows).mean().item(), rel=1e-5)
    assert masked.item() < info_nce(image, text, scale).item()


def test_mask_of_different_texts_changes_nothing() -> None:
    image, text = features(4)
    scale = torch.tensor(1.0)
    mask = same_text_mask(torch.arange(4))
    assert torch.equal(info_nce(image, text, scale, mask_same=mask), info_nce(image, text, scale))


def test_convirt_of_two_pairs_is_known() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    # cosines (image rows, text columns): [[1, .6], [0, .8]]; temperature 1, weight .75 on image to text
    to_text = (math.log(1 + math.exp(0.6 - 1)) + math.log(1 + math.exp(0 - 0.8))) / 2
    to_image = (math.log(1 + math.exp(0 - 1)) + math.log(1 + math.exp(0.6 - 0.8))) / 2
    loss = convirt(image, text, temperature=1.0, image_weight=0.75)
    assert loss.item() == pytest.approx(0.75 * to_text + 0.25 * to_image, rel=1e-6)


def test_convirt_at_equal_weights_is_infonce_at_a_fixed_temperature() -> None:
    image, text = features()
    expected = info_nce(image, text, torch.tensor(math.log(10.0)))
    assert torch.allclose(convirt(image, text, temperature=0.1, image_weight=0.5), expected, atol=1e-5)


def test_convirt_weighs_image_to_text_three_times_by_default() -> None:
    image, text = features()
    only_text = convirt(image, text, image_weight=1.0)
    only_image = convirt(image, text, image_weight=0.0)
    assert torch.allclose(convirt(image, text), 0.75 * only_text + 0.25 * only_image, atol=1e-6)


def test_siglip_of_two_pairs_is_known() -> None:
    loss = siglip(TWO, TWO, torch.tensor(math.log(3.0)), torch.tensor(-1.0))
    # two positives at logit 3-1 = 2, two negatives at logit -1
    expected = (2 * math.log(1 + math.exp(-2)) + 2 * math.log(1 + math.exp(-1))) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_siglip_equals_open_clip_with_gradients() -> None:
    image, text = features()
    scale, bias = torch.tensor(2.3, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
    inputs = [image, text, scale, bias]
    ours = siglip(image, text, scale, bias)
    theirs = SigLipLoss(rank=0, world_size=1)(
        functional.normalize(image, dim=1), functional.normalize(text, dim=1), scale.exp(), bias
    )
    assert torch.allclose(ours, theirs, atol=1e-5)
    pairs = zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def test_siglip_mask_leaves_duplicates_out() -> None:
    text = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    image = torch.eye(2)
    zero = torch.tensor(0.0)
    masked = siglip(image, text, zero, zero, mask_same=same_text_mask(torch.tensor([5, 5])))
    # what is left: cosines 1 and 0 of the two pairs
    assert masked.item() == pytest.approx((math.log(1 + math.exp(-1)) + math.log(2)) / 2, rel=1e-6)


@pytest.mark.parametrize("name", ["infonce", "masked", "convirt", "siglip"])
def test_gradients_against_differences(name: str) -> None:
    image, text = features(3, 4, dtype=torch.float64)
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-0.3, dtype=torch.float64, requires_grad=True)
    mask = same_text_mask(torch.tensor([1, 2, 1]))
    calls = {
        "infonce": lambda i, t, s, b: info_nce(i, t, s) + 0 * b,
        "masked": lambda i, t, s, b: info_nce(i, t, s, mask_same=mask) + 0 * b,
        "convirt": lambda i, t, s, b: convirt(i, t) + 0 * s + 0 * b,
        "siglip": siglip,
    }
    assert torch.autograd.gradcheck(calls[name], (image, text, scale, bias))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_scored_in_float32(dtype: torch.dtype) -> None:
    image, text = (value.detach().to(dtype) for value in features())
    loss = info_nce(image, text, torch.tensor(4.6))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, info_nce(image.float(), text.float(), torch.tensor(4.6)))


def test_autocast_does_not_reach_into_the_loss() -> None:
    image, text = features(16, 64)
    scale = torch.tensor(4.6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = info_nce(image, text, scale)
    assert torch.equal(inside, info_nce(image, text, scale))


def test_non_finite_is_found_and_named() -> None:
    assert is_finite(torch.ones(3))
    named = {"a": torch.tensor([1.0, math.nan]), "b": torch.zeros(2), "c": None, "d": torch.tensor(-math.inf)}
    assert non_finite(named.items()) == ["a", "d"]
