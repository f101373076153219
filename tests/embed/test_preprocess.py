from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from clinical_clip.embed.preprocess import Preprocessing
from clinical_clip.errors import OptionError


def test_pad_keeps_proportions_and_centres() -> None:
    image = np.full((100, 200, 3), 200, np.uint8)
    out = Preprocessing(size=64, resize="pad").apply(image)
    assert out.shape == (64, 64, 3)
    rows_used = np.flatnonzero(out[:, 32, 0])
    assert rows_used.tolist() == list(range(16, 48))
    assert (out[16:48] == 200).all()


def test_area_halving_is_the_mean_of_four() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 8), dtype=np.uint8)
    out = Preprocessing(size=4, resize="squash").apply(image)[..., 0].astype(float)
    by_hand = image.reshape(4, 2, 4, 2).mean(axis=(1, 3))
    assert np.abs(out - by_hand).max() <= 0.5


def test_area_agrees_with_pillows_box_filter() -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (150, 150), dtype=np.uint8)
    ours = Preprocessing(size=50, resize="squash").apply(image)[..., 0].astype(int)
    pillow = np.asarray(Image.fromarray(image).resize((50, 50), Image.Resampling.BOX)).astype(int)
    assert np.abs(ours - pillow).max() <= 1


def test_crop_takes_the_central_square() -> None:
    image = np.zeros((10, 30), np.uint8)
    image[:, 10:20] = 255
    assert (Preprocessing(size=10, resize="crop").apply(image) == 255).all()


def test_gray_and_equal_channels_are_the_same() -> None:
    rng = np.random.default_rng(2)
    gray = rng.integers(0, 256, (37, 51), dtype=np.uint8)
    settings = Preprocessing(size=24)
    assert np.array_equal(settings.apply(gray), settings.apply(np.repeat(gray[..., None], 3, axis=2)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 3000)])
def test_extreme_proportions_keep_at_least_a_pixel(shape: tuple[int, int]) -> None:
    out = Preprocessing(size=16).apply(np.full(shape, 255, np.uint8))
    assert out.shape == (16, 16, 3)
    assert out.max() == 255


def test_digest_is_that_of_the_stated_settings() -> None:
    stated = {"interpolation": "area", "resize": "pad", "revision": 1, "size": 224}
    expected = hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()
    assert Preprocessing().digest == expected


@pytest.mark.parametrize("settings", [{"size": 0}, {"resize": "stretch"}, {"interpolation": "lanczos"}])
def test_unknown_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="not known"):
        Preprocessing(**settings)  # type: ignore[arg-type]
