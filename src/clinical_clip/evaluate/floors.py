"""What a method must beat: chance, and the thumbnail itself.

Shape suffixes: Q queries, H height, W width, C channels (1 or 3), N images, D = 1024.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clinical_clip.errors import CorruptImage

__all__ = ["PIXEL_SIDE", "expected_at_random", "pixel_vector"]

PIXEL_SIDE = 32


def pixel_vector(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The 32x32-pixel floor: grey, resized, mean subtracted, L2-normalised; (1024,) float32.

    Args:
        pixels: (H, W) grey or (H, W, 3) RGB, uint8.

    Returns:
        A vector of norm 1; zeros for an image of one single grey, which then scores 0 with every other.

    >>> v = pixel_vector(np.arange(64, dtype=np.uint8).reshape(8, 8))
    >>> v.shape, round(float(v @ v), 5), abs(float(v.mean())) < 1e-6
    ((1024,), 1.0, True)
    """
    import cv2

    if pixels.ndim not in (2, 3) or pixels.dtype != np.uint8 or not pixels.size:
        raise CorruptImage(f"not an 8-bit image: shape {pixels.shape}, {pixels.dtype}", where="pixel floor")
    wide = pixels.astype(np.float32)  # so that the small image is not rounded to whole greys
    grey = cv2.cvtColor(wide, cv2.COLOR_RGB2GRAY) if pixels.ndim == 3 else wide
    small = cv2.resize(grey, (PIXEL_SIDE, PIXEL_SIDE), interpolation=cv2.INTER_AREA)
    vector = np.asarray(small, dtype=np.float64).ravel()
    vector -= vector.mean()
    norm = float(np.linalg.norm(vector))
    return np.asarray(vector / norm if norm > 0 else vector, dtype=np.float32)


def expected_at_random(
    relevant_Q: NDArray[np.integer], eligible_Q: NDArray[np.integer], ks: tuple[int, ...]
) -> dict[str, NDArray[np.float64]]:
    """The exact expectation of every metric of :func:`~clinical_clip.evaluate.metrics.measure` when the
    gallery is in random order.

    With R relevant among n: P@K is R/n (times min(K, n)/K), recall@K is min(K, n)/n, hit@K is one minus the
    hypergeometric chance of no hit, and AP is (H_n + (R-1)/(n-1) (n - H_n)) / n with H_n = 1 + 1/2 + ... 1/n.

    >>> e = expected_at_random(np.array([1]), np.array([2]), (1,))
    >>> {name: value.round(4).tolist() for name, value in e.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'P@1': [0.5], 'R-precision': [0.5], 'mAP': [0.75], 'nDCG@1': [0.5], 'recall@1': [0.5], 'hit@1': [0.5]}
    """
    n = np.maximum(eligible_Q, 1).astype(np.float64)
    r = relevant_Q.astype(np.float64)
    out = {f"P@{k}": r / n * np.minimum(k, n) / k for k in ks}
    out["R-precision"] = r / n
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, int(n.max(initial=1)) + 1))])
    h_n = harmonic[n.astype(np.intp)]
    out["mAP"] = np.where(r > 0, (h_n + (r - 1) / np.maximum(n - 1, 1) * (n - h_n)) / n, 0.0)
    for k in ks:
        discounts = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])
        ideal = discounts[np.minimum(relevant_Q, k)]
        gain = r / n * discounts[np.minimum(n, k).astype(np.intp)]
        out[f"nDCG@{k}"] = np.where(ideal > 0, gain / np.where(ideal > 0, ideal, 1.0), 0.0)
    out |= {f"recall@{k}": np.where(r > 0, np.minimum(k, n) / n, 0.0) for k in ks}
    out |= {f"hit@{k}": 1.0 - _no_hit(r, n, k) for k in ks}
    return out


def _no_hit(r: NDArray[np.float64], n: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Chance that none of r relevant items among n stands in the first k: the product of (n-r-i)/(n-i)."""
    i = np.arange(k, dtype=np.float64)
    factor_QK = np.clip((n - r)[:, None] - i, 0, None) / np.maximum(n[:, None] - i, 1)
    factor_QK[i[None, :] >= n[:, None]] = 1.0  # the list is shorter than k
    return np.asarray(factor_QK.prod(axis=1), dtype=np.float64)
