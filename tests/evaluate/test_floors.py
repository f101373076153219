"""Floors: chance against the enumeration of all orders, and the thumbnail vector."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from clinical_clip.errors import CorruptImage
from clinical_clip.evaluate.floors import expected_at_random, pixel_vector
from clinical_clip.evaluate.metrics import measure


@pytest.mark.parametrize(("relevant", "size"), [(1, 1), (1, 5), (3, 5), (5, 5), (2, 6), (0, 4)])
def test_chance_is_the_mean_over_all_orders(relevant, size):
    items = [True] * relevant + [False] * (size - relevant)
    orders = np.array(sorted(set(permutations(items))))  # each distinct order is equally likely
    ks = (1, 2, 5, 8)
    every = measure(orders, np.full(len(orders), relevant), ks)
    expected = expected_at_random(np.array([relevant]), np.array([size]), ks)
    assert list(expected) == list(every)
    for name, values in every.items():
        assert expected[name][0] == pytest.approx(values.mean(), abs=1e-12), name


def test_thumbnail_ignores_brightness_and_contrast():
    rng = np.random.default_rng(2)
    image = rng.integers(60, 120, (64, 96), dtype=np.uint8)
    brighter = (image.astype(int) * 2 - 20).astype(np.uint8)
    assert pixel_vector(image) @ pixel_vector(brighter) > 0.999
    assert pixel_vector(image) @ pixel_vector(255 - image) == pytest.approx(-1.0, abs=0.01)


def test_thumbnail_of_colour_equals_that_of_its_grey():
    grey = np.random.default_rng(4).integers(0, 256, (40, 50), dtype=np.uint8)
    assert np.allclose(pixel_vector(np.stack([grey] * 3, axis=2)), pixel_vector(grey), atol=1e-6)


def test_thumbnail_averages_by_area():
    image = np.zeros((64, 64), dtype=np.uint8)
    image[:2, :2] = [[0, 100], [100, 200]]  # the first cell of 2 x 2 pixels has mean 100
    vector = np.zeros(1024)
    vector[0] = 100.0
    vector -= vector.mean()
    assert np.allclose(pixel_vector(image), vector / np.linalg.norm(vector), atol=1e-6)


def test_one_single_grey_gives_zeros():
    assert not pixel_vector(np.full((8, 8), 77, dtype=np.uint8)).any()


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4)), np.zeros((0, 4), np.uint8), np.zeros((2, 2, 2, 2), np.uint8)]
)
def test_what_is_no_image_is_refused(bad):
    with pytest.raises(CorruptImage):
        pixel_vector(bad)
