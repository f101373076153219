"""Made pictures for the embedding tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_pictures(folder: Path, count: int, *, side: int = 48) -> list[str]:
    """``count`` different PNG files in two folders; their relative paths in sorted order."""
    rng = np.random.default_rng(7)
    names = []
    for number in range(count):
        name = f"{'ab'[number % 2]}/picture{number:03d}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (side + number % 5, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((side * 2, side * 2)).save(folder / name)
        names.append(name)
    return sorted(names)
