from __future__ import annotations

import random

import numpy as np
import pytest

from clinical_clip.train.augment import ConvirtAugmentation

STILL = ConvirtAugmentation(
    crop_scale=(1.0, 1.0),
    crop_aspect=(1.0, 1.0),
    flip=0.0,
    rotation_deg=0.0,
    translation=0.0,
    scale=(1.0, 1.0),
    brightness=(1.0, 1.0),
    contrast=(1.0, 1.0),
    blur_sigma_px=(0.1, 0.1),
)


def picture(height: int = 90, width: int = 120, channels: int = 0) -> np.ndarray:
    rng = np.random.default_rng(0)
    shape = (height, width, channels) if channels else (height, width)
    return rng.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [0, 3])
def test_same_chance_same_pixels(channels: int) -> None:
    pixels = picture(channels=channels)
    one = ConvirtAugmentation()(pixels, 64, random.Random(5))
    assert one.shape == ((64, 64, 3) if channels else (64, 64))
    assert one.dtype == np.uint8
    assert np.array_equal(one, ConvirtAugmentation()(pixels, 64, random.Random(5)))
    assert not np.array_equal(one, ConvirtAugmentation()(pixels, 64, random.Random(6)))


def test_nothing_changes_where_all_ranges_are_points() -> None:
    pixels = picture(64, 64)
    assert np.array_equal(STILL(pixels, 64, random.Random(0)), pixels)


def test_flip_is_horizontal() -> None:
    from dataclasses import replace

    pixels = picture(64, 64)
    assert np.array_equal(replace(STILL, flip=1.0)(pixels, 64, random.Random(0)), pixels[:, ::-1])


def test_crops_are_those_of_torchvision() -> None:
    """Area share and aspect over many draws, against RandomResizedCrop's own."""
    import torch
    from torchvision.transforms import RandomResizedCrop

    rng = random.Random(0)
    ours = np.array([ConvirtAugmentation().crop_box(300, 400, rng) for _ in range(4000)], float)
    torch.manual_seed(0)
    image = torch.zeros(3, 300, 400)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, [0.6, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)], float
    )
    for boxes in (ours, theirs):
        assert (boxes[:, 0] + boxes[:, 2] <= 300).all()
        assert (boxes[:, 1] + boxes[:, 3] <= 400).all()
    area = [boxes[:, 2] * boxes[:, 3] / 120_000 for boxes in (ours, theirs)]
    assert area[0].min() > 0.59
    assert area[0].mean() == pytest.approx(area[1].mean(), abs=0.01)
    assert ours.mean(0) == pytest.approx(theirs.mean(0), abs=2.5)


def test_brightness_and_contrast_as_torchvision_does_them() -> None:
    from dataclasses import replace

    import torch
    from torchvision.transforms.functional import adjust_brightness, adjust_contrast

    pixels = picture(64, 64)
    changed = replace(STILL, brightness=(0.7, 0.7), contrast=(1.3, 1.3))
    image = torch.from_numpy(pixels)[None]
    expected = adjust_contrast(adjust_brightness(image, 0.7), 1.3)[0].numpy().astype(int)
    assert np.abs(changed(pixels, 64, random.Random(0)).astype(int) - expected).max() <= 2
