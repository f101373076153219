"""ConVIRT's image augmentation (Zhang et al. 2020, section 4.2), on uint8 pixels with OpenCV."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Augmentation", "ConvirtAugmentation"]

_CROP_TRIES = 10


class Augmentation(Protocol):
    """Pixels to other pixels, all chance drawn from ``rng``."""

    def __call__(self, pixels_HWC: NDArray[np.uint8], size: int, rng: random.Random) -> NDArray[np.uint8]:
        """uint8 (size, size) of (H, W), (size, size, 3) of (H, W, 3)."""
        ...


@dataclass(frozen=True, kw_only=True)
class ConvirtAugmentation:
    """Crop, flip, affine, brightness and contrast, blur, then resize to the tower's input.

    The numbers are the paper's. Where it is silent (our choices): ``crop_scale`` is the share of the
    area, the crop's aspect is log-uniform in ``crop_aspect`` (both as in torchvision's
    RandomResizedCrop); the affine map turns about the middle, bilinear, and lays black outside;
    brightness comes before contrast, contrast is about the mean grey.

    The horizontal flip erases what is left and what is right.
    """

    crop_scale: tuple[float, float] = (0.6, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    rotation_deg: float = 20.0
    translation: float = 0.1
    scale: tuple[float, float] = (0.95, 1.05)
    brightness: tuple[float, float] = (0.6, 1.4)
    contrast: tuple[float, float] = (0.6, 1.4)
    blur_sigma_px: tuple[float, float] = (0.1, 3.0)

    def __call__(self, pixels_HWC: NDArray[np.uint8], size: int, rng: random.Random) -> NDArray[np.uint8]:
        """uint8 (size, size) of (H, W), (size, size, 3) of (H, W, 3)."""
        import cv2

        top, left, height, width = self.crop_box(pixels_HWC.shape[0], pixels_HWC.shape[1], rng)
        pixels = pixels_HWC[top : top + height, left : left + width]
        if rng.random() < self.flip:
            pixels = pixels[:, ::-1]
        pixels = np.ascontiguousarray(pixels)
        pixels = cv2.warpAffine(pixels, self.affine_matrix(height, width, rng), (width, height))
        pixels = cv2.LUT(pixels, _tone(pixels, rng.uniform(*self.brightness), rng.uniform(*self.contrast)))
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(*self.blur_sigma_px))
        shrinks = min(height, width) > size
        pixels = cv2.resize(
            pixels, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
        return np.asarray(pixels, np.uint8)

    def crop_box(self, height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the crop; the whole image where ten draws do not fit."""
        for _ in range(_CROP_TRIES):
            area = height * width * rng.uniform(*self.crop_scale)
            low, high = self.crop_aspect
            aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
            crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                return (
                    rng.randint(0, height - crop_height),
                    rng.randint(0, width - crop_width),
                    crop_height,
                    crop_width,
                )
        return 0, 0, height, width

    def affine_matrix(self, height: int, width: int, rng: random.Random) -> NDArray[np.float64]:
        """(2, 3) matrix: rotation and scale about the middle, then a shift in shares of the sides."""
        import cv2

        middle = ((width - 1) / 2, (height - 1) / 2)
        angle_deg = rng.uniform(-self.rotation_deg, self.rotation_deg)
        matrix = np.asarray(cv2.getRotationMatrix2D(middle, angle_deg, rng.uniform(*self.scale)), np.float64)
        matrix[0, 2] += rng.uniform(-self.translation, self.translation) * width
        matrix[1, 2] += rng.uniform(-self.translation, self.translation) * height
        return matrix


def _tone(pixels: NDArray[np.uint8], brightness: float, contrast: float) -> NDArray[np.uint8]:
    """Lookup table of 256: v·brightness, then contrast about the mean of the brightened grey."""
    values = np.clip(np.arange(256) * brightness, 0, 255)
    mean = float(np.bincount(pixels.reshape(-1), minlength=256) @ values / pixels.size)
    table: NDArray[np.uint8] = np.clip(np.rint((values - mean) * contrast + mean), 0, 255).astype(np.uint8)
    return table
