"""From decoded pixels to a tower's input, as each family was trained with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clinical_clip.errors import OptionError

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ImagePreprocessing",
    "preprocessing_for",
]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LITE_MEAN = (127 / 255,) * 3  # (x - 127) / 128, of EfficientNet-lite's TensorFlow original
LITE_STD = (128 / 255,) * 3


@dataclass(frozen=True, kw_only=True)
class ImagePreprocessing:
    """How an image becomes a tower's square, normalised input.

    Attributes:
        size: side of the square in pixels.
        resize: ``crop`` brings the shorter side to ``size`` and takes the centre (CLIP's own), ``pad``
            brings the longer side to ``size`` on black, ``squash`` stretches.
        interpolation: ``bicubic`` is Pillow's, antialiased (CLIP's own); ``area`` is OpenCV's, the same as
            indexing uses.
        mean, std: of the three channels, for values in [0, 1].
    """

    size: int
    resize: Literal["crop", "pad", "squash"] = "crop"
    interpolation: Literal["bicubic", "area"] = "bicubic"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        known = (("crop", "pad", "squash"), ("bicubic", "area"))
        if self.size < 1 or self.resize not in known[0] or self.interpolation not in known[1]:
            raise OptionError(
                "preprocessing that is not known", where=str(asdict(self)), hint=f"use one of {known}"
            )

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the settings and of this path's revision."""
        settings = json.dumps({"revision": 1, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(settings.encode()).hexdigest()

    def square(self, image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop or pad, without normalising.

        Args:
            image_HWC: uint8 (H, W) or (H, W, 3).

        Returns:
            uint8 (size, size, 3); gray images have three equal channels.

        >>> ImagePreprocessing(size=4, resize="pad").square(np.full((2, 8), 9, np.uint8))[:, 0, 0].tolist()
        [0, 9, 0, 0]
        """
        height, width = image_HWC.shape[:2]
        target_h, target_w = self._target(height, width)
        image = image_HWC
        if (height, width) != (target_h, target_w):
            image = self._resize(np.ascontiguousarray(image), target_h, target_w)
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        if self.resize == "pad":
            canvas = np.zeros((self.size, self.size, 3), np.uint8)
            top, left = (self.size - target_h) // 2, (self.size - target_w) // 2
            canvas[top : top + target_h, left : left + target_w] = image
            return canvas
        top, left = round((target_h - self.size) / 2), round((target_w - self.size) / 2)
        return np.array(image[top : top + self.size, left : left + self.size], order="C")

    def apply(self, image_HWC: NDArray[np.uint8]) -> Tensor:
        """uint8 (H, W) or (H, W, 3) → float32 (3, size, size), normalised."""
        return self.normalise(torch.from_numpy(self.square(image_HWC))[None])[0]

    def normalise(self, image_BHWC: Tensor) -> Tensor:
        """uint8 (B, size, size, 3) on any device → float32 (B, 3, size, size) on the same device.

        Loaders can so send bytes, a quarter of the floats, to the device.
        """
        mean = torch.tensor(self.mean, device=image_BHWC.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=image_BHWC.device).view(1, 3, 1, 1)
        image_BCHW = image_BHWC.permute(0, 3, 1, 2).to(torch.float32).div(255)
        return image_BCHW.sub_(mean).div_(std).contiguous()

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self.resize == "squash":
            return self.size, self.size
        if self.resize == "pad":
            longer = max(height, width)
            return max(1, round(height * self.size / longer)), max(1, round(width * self.size / longer))
        shorter = min(height, width)
        return (
            (self.size, int(self.size * width / shorter))
            if height <= width
            else (int(self.size * height / shorter), self.size)
        )

    def _resize(self, image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        if self.interpolation == "bicubic":
            from PIL import Image

            resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
            return np.asarray(resized)
        import cv2

        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def preprocessing_for(architecture: str, size: int) -> ImagePreprocessing:
    """The preprocessing that ``architecture`` was trained with, at ``size`` pixels.

    CLIP's towers: CLIP's own. resnet50 (ConVIRT): the same geometry with ImageNet's mean and deviation.
    EfficientNet-lite0: the whole field on black, as the package's encoder sees it.

    >>> preprocessing_for("efficientnet-lite0", 224).resize
    'pad'
    """
    if architecture == "efficientnet-lite0":
        return ImagePreprocessing(size=size, resize="pad", interpolation="area", mean=LITE_MEAN, std=LITE_STD)
    if architecture == "resnet50":
        return ImagePreprocessing(size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return ImagePreprocessing(size=size)
