"""A self-test against the original model: made pictures, and what the original said of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["KnownAnswer", "known_pictures"]


def known_pictures(size: int, count: int = 8) -> NDArray[np.uint8]:
    """Made pictures: a disc, gradients and seeded noise.

    Args:
        size: side in pixels.
        count: B, how many.

    Returns:
        uint8 (B, size, size, 3), the same on every machine.

    >>> known_pictures(16).shape
    (8, 16, 16, 3)
    """
    rng = np.random.default_rng(42)
    y, x = np.mgrid[0:size, 0:size].astype(np.float64) / size
    pictures = []
    for number in range(count):
        disc = (x - 0.3 - 0.05 * number) ** 2 + (y - 0.5) ** 2 < 0.01 * (number + 1)
        wave = np.abs(((number + 1) * (x + y)) % 2 - 1)
        plane = np.stack([x, y, wave], axis=-1)
        noise = rng.uniform(0, 0.2, (size, size, 3))
        pictures.append(np.clip(plane * 0.6 + disc[..., None] * 0.4 + noise, 0, 1) * 255)
    return np.stack(pictures).astype(np.uint8)


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownAnswer:
    """How near an encoder came to its original.

    Attributes:
        cosine_min: the least cosine between the encoder's and the original's vectors.
        spread: the mean cosine between different pictures: a test of constant output.
    """

    cosine_min: float
    spread: float

    @classmethod
    def of(cls, measured_BD: NDArray[np.float32], original_BD: NDArray[np.float32]) -> KnownAnswer:
        """Compare two (B, D) sets of unit vectors, row by row."""
        cosine_B = (measured_BD.astype(np.float64) * original_BD.astype(np.float64)).sum(axis=1)
        similarity_BB = measured_BD.astype(np.float64) @ measured_BD.astype(np.float64).T
        others = similarity_BB[~np.eye(len(measured_BD), dtype=bool)]
        return cls(cosine_min=float(cosine_B.min()), spread=float(others.mean()))
