from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from clinical_clip.errors import OptionError
from clinical_clip.model.batchnorm import CrossRankBatchNorm2d, batchnorms, uses_batch_statistics
from clinical_clip.model.config import ImagePreprocessingConfig, ImageTowerConfig
from clinical_clip.model.image_towers import IMAGE_SIZES, ImageTower
from tests.model.make import peer, write_archive

SMALL = ["tiny-resnet", "tiny-vit"]


def pixels(size: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def loaded(architecture: str, folder: Path, **options: object) -> tuple[ImageTower, nn.Module]:
    theirs = peer(architecture)
    spec = write_archive(folder / "x.pt", theirs)
    return ImageTowerConfig(architecture=architecture, weights=spec, **options).build(), theirs


@pytest.mark.parametrize("architecture", SMALL)
def test_equals_open_clip_with_the_same_weights(architecture: str, tmp_path: Path) -> None:
    ours, theirs = loaded(architecture, tmp_path)
    image_BCHW = pixels(IMAGE_SIZES[architecture])
    with torch.no_grad():
        expected = theirs.encode_image(image_BCHW)
        assert torch.equal(ours.eval()(image_BCHW), expected)
    assert expected.std(dim=0).max() > 1e-4  # not the same for every image


def test_quickgelu_and_gelu_differ(tmp_path: Path) -> None:
    ours, theirs = loaded("tiny-vit", tmp_path)
    plain = peer("tiny-vit", quick_gelu=False)
    plain.load_state_dict(theirs.state_dict())
    image_BCHW = pixels(32)
    with torch.no_grad():
        assert (ours.eval()(image_BCHW) - plain.encode_image(image_BCHW)).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", SMALL)
def test_inner_feature_times_the_projection_is_the_feature(architecture: str, tmp_path: Path) -> None:
    ours, _ = loaded(architecture, tmp_path)
    ours.eval()
    image_BCHW = pixels(IMAGE_SIZES[architecture])
    with torch.no_grad():
        inner_BF = ours.inner(image_BCHW)
        body = ours.body
        projected = inner_BF @ body.proj if architecture == "tiny-vit" else body.attnpool.c_proj(inner_BF)
        assert inner_BF.shape == (3, ours.inner_width)
        assert torch.allclose(projected, ours(image_BCHW), atol=1e-6)


def test_frozen_batchnorm_keeps_its_statistics_and_trains_its_affine_part() -> None:
    tower = ImageTowerConfig(architecture="tiny-resnet").build().train()
    assert tower.training
    assert not uses_batch_statistics(tower)
    before = {name: value.clone() for name, value in tower.named_buffers()}
    first = tower(pixels(64))
    first.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in tower.named_buffers())
    assert all(layer.weight.grad is not None for layer in batchnorms(tower))
    assert torch.equal(first, tower.eval()(pixels(64)))


@pytest.mark.parametrize("policy", ["train", "sync"])
def test_other_policies_follow_the_batch(policy: str) -> None:
    tower = ImageTowerConfig(architecture="tiny-resnet", batchnorm=policy).build().train()
    assert uses_batch_statistics(tower)
    before = tower.body.bn1.running_mean.clone()
    tower(pixels(64))
    assert not torch.equal(tower.body.bn1.running_mean, before)
    assert not uses_batch_statistics(tower.eval())


def test_sync_alone_is_batchnorm_and_keeps_names() -> None:
    sync = ImageTowerConfig(architecture="tiny-resnet", batchnorm="sync").build()
    plain = ImageTowerConfig(architecture="tiny-resnet", batchnorm="train").build()
    assert all(type(layer) is CrossRankBatchNorm2d for layer in batchnorms(sync))
    assert sync.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(sync.state_dict())
    assert torch.equal(sync(pixels(64)), plain(pixels(64)))


def test_a_frozen_tower_takes_no_gradient_and_stays_in_eval_mode() -> None:
    tower = ImageTowerConfig(architecture="tiny-resnet", batchnorm="train", frozen=True).build().train()
    assert not any(module.training for module in tower.modules())
    assert not tower(pixels(64)).requires_grad


def test_size_is_taken_by_tower_and_preprocessing_alike() -> None:
    tower = ImageTowerConfig(architecture="tiny-vit", image_size=64).build()
    assert tower.preprocessing.size == 64
    assert tower(pixels(64)).shape == (3, 32)


def test_preprocessing_of_another_size_is_refused() -> None:
    other = ImagePreprocessingConfig(
        size=48, resize="pad", interpolation="area", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    with pytest.raises(OptionError, match="48 px for a tower of 32 px"):
        ImageTowerConfig(architecture="tiny-vit", preprocessing=other).build()


def test_unknown_architecture_is_refused() -> None:
    with pytest.raises(OptionError, match="'RN52' is not known"):
        ImageTowerConfig(architecture="RN52")


@pytest.mark.parametrize("policy", ["frozen", "train"])
def test_resnet50_is_torchvisions_without_its_classifier(policy: str) -> None:
    from torchvision.models import resnet50

    tower = ImageTowerConfig(architecture="resnet50", image_size=64, batchnorm=policy).build().eval()
    theirs = resnet50(weights=None).eval()
    theirs.load_state_dict(tower.body.state_dict(), strict=False)
    seen: list[torch.Tensor] = []
    theirs.fc.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        theirs(pixels(64))
        assert torch.equal(tower(pixels(64)), seen[0])


@pytest.mark.full
@pytest.mark.parametrize("architecture", ["RN50", "RN101", "RN50x4", "ViT-B-32"])
def test_full_size_equals_open_clip(architecture: str, tmp_path: Path) -> None:
    from open_clip.model import CLIP

    from clinical_clip.model.image_towers import clip_config
    from clinical_clip.model.methods import clip
    from clinical_clip.model.random_weights import write_random_weights

    write_random_weights(tmp_path, names=[architecture])
    ours = clip(architecture, weights=tmp_path, check_digest=False).build().eval()
    theirs = CLIP(**clip_config(architecture)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        state = torch.jit.load(tmp_path / "openai" / f"{architecture}.pt").state_dict()
    for name in ("input_resolution", "context_length", "vocab_size"):
        state.pop(name)
    theirs.load_state_dict(state)
    theirs.float()
    size = ours.preprocess.size
    tokens = ours.tokenize(["a chest x-ray", "an axial CT of the abdomen " * 30])
    whole_BL = torch.zeros(2, 77, dtype=torch.int64)
    whole_BL[:, : tokens.ids_BL.shape[1]] = tokens.ids_BL
    with torch.no_grad():
        assert torch.equal(ours.encode_image(pixels(size, 2)), theirs.encode_image(pixels(size, 2)))
        assert torch.allclose(ours.encode_text(tokens), theirs.encode_text(whole_BL), atol=1e-4)
    assert ours.logit_scale.item() == pytest.approx(theirs.logit_scale.item())
