from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from clinical_clip.embed.preprocess import Preprocessing
from clinical_clip.errors import OptionError
from clinical_clip.model.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImagePreprocessing,
    preprocessing_for,
)

SHAPES = [(300, 224), (224, 300), (97, 411), (411, 97), (224, 224), (60, 50), (225, 224)]


def picture(height: int, width: int, *, gray: bool = False) -> NDArray[np.uint8]:
    rng = np.random.default_rng(height * 1000 + width)
    shape = (height, width) if gray else (height, width, 3)
    return rng.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [224, 288])
def test_clips_own_is_open_clips(shape: tuple[int, int], size: int) -> None:
    theirs = image_transform_v2(PreprocessCfg(size=size, interpolation="bicubic"), is_train=False)
    image = picture(*shape)
    expected = theirs(Image.fromarray(image))
    assert torch.allclose(preprocessing_for("RN50x4", size).apply(image), expected, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gray", [False, True])
def test_padded_is_what_indexing_does(shape: tuple[int, int], gray: bool) -> None:
    image = picture(*shape, gray=gray)
    indexing = Preprocessing(size=224, resize="pad", interpolation="area").apply(image)
    assert np.array_equal(preprocessing_for("efficientnet-lite0", 224).square(image), indexing)


def test_gray_images_get_three_equal_channels() -> None:
    square = preprocessing_for("RN50", 32).square(picture(40, 50, gray=True))
    assert square.shape == (32, 32, 3)
    assert np.array_equal(square[..., 0], square[..., 2])


def test_lite_pixels_are_centred_as_in_the_original() -> None:
    black_white = np.zeros((224, 224, 3), np.uint8)
    black_white[0] = 255
    normal = preprocessing_for("efficientnet-lite0", 224).apply(black_white)
    assert normal.min().item() == pytest.approx(-127 / 128, abs=1e-6)
    assert normal.max().item() == pytest.approx(1.0, abs=1e-6)


def test_resnet50_takes_imagenets_mean_and_deviation() -> None:
    own = preprocessing_for("resnet50", 224)
    assert (own.mean, own.std, own.size) == (IMAGENET_MEAN, IMAGENET_STD, 224)


def test_normalising_a_batch_is_normalising_each() -> None:
    own = preprocessing_for("ViT-B-32", 16)
    squares = np.stack([own.square(picture(20, 30)), own.square(picture(31, 17))])
    batch = own.normalise(torch.from_numpy(squares))
    assert torch.equal(batch[1], own.apply(picture(31, 17)))


def test_every_setting_is_in_the_digest() -> None:
    base = ImagePreprocessing(size=224)
    others = [
        ImagePreprocessing(size=288),
        ImagePreprocessing(size=224, resize="pad"),
        ImagePreprocessing(size=224, interpolation="area"),
        ImagePreprocessing(size=224, mean=IMAGENET_MEAN),
        ImagePreprocessing(size=224, std=IMAGENET_STD),
    ]
    assert len({one.digest for one in [base, *others]}) == 6


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(OptionError):
        ImagePreprocessing(size=224, resize="stretch")


@pytest.mark.parametrize("size", [64, 30])
def test_read_only_pixels_are_taken_and_left_alone(size: int) -> None:
    image = picture(64, 64)
    image.flags.writeable = False
    before = image.copy()
    assert preprocessing_for("RN50", size).apply(image).shape == (3, size, size)
    assert np.array_equal(image, before)
