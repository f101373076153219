"""Made pairs: drawn pictures whose captions say what is drawn, to try the machinery on anywhere."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinical_clip.data.pairs import Pair, PairSet

__all__ = ["make_pairs"]

_SHAPES = ("disc", "square", "stripes")
_TONES = {"dark": 70, "bright": 220}
_PLACES = {"left": 0.3, "right": 0.7}


def make_pairs(folder: Path, count: int, *, seed: int = 0, size_px: int = 48) -> PairSet:
    """Draw ``count`` PNG pictures into ``folder`` and pair each with a caption of two sentences.

    Every tenth caption repeats another; the label ``shape`` is what is drawn.
    """
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)  # noqa: S311
    pairs = []
    for number in range(count):
        shape, tone, place = rng.choice(_SHAPES), rng.choice(list(_TONES)), rng.choice(list(_PLACES))
        path = folder / f"made-{number:05d}.png"
        cv2.imwrite(str(path), _draw(shape, _TONES[tone], _PLACES[place], size_px, rng))
        caption = f"Drawing of a {tone} {shape}. It is on the {place} side, number {number % 9}."
        if number % 10 == 9:
            caption = f"Drawing of a {shape}."
        pairs.append(
            Pair(
                pair_id=path.stem,
                image=path,
                caption=caption,
                image_id=path.stem,
                article=f"article-{number // 2}",
                split="validation" if number % 4 == 3 else "train",
                licence="CC0-1.0",
                labels={"shape": shape},
            )
        )
    return PairSet(name="made pairs", pairs=tuple(pairs))


def _draw(shape: str, tone: int, place: float, size_px: int, rng: random.Random) -> NDArray[np.uint8]:
    import cv2

    noise = np.random.Generator(np.random.PCG64(rng.getrandbits(64)))
    pixels = noise.integers(0, 40, (size_px, size_px), dtype=np.uint8)
    middle = (round(place * size_px), round(rng.uniform(0.3, 0.7) * size_px))
    radius = round(size_px * rng.uniform(0.12, 0.2))
    if shape == "disc":
        cv2.circle(pixels, middle, radius, tone, -1)
    elif shape == "square":
        low = (middle[0] - radius, middle[1] - radius)
        cv2.rectangle(pixels, low, (middle[0] + radius, middle[1] + radius), tone, -1)
    else:
        for offset in range(-radius, radius + 1, 4):
            start, stop = (middle[0] + offset, middle[1] - radius), (middle[0] + offset, middle[1] + radius)
            cv2.line(pixels, start, stop, tone, 2)
    return pixels
