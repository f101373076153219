"""From decoded pixels to the encoder's input: the same path for indexing and for queries."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clinical_clip.errors import OptionError

__all__ = ["Preprocessing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """How an image becomes the encoder's square input. Normalisation is inside the encoder's graph.

    Attributes:
        size: side of the square, in pixels.
        resize: ``pad`` keeps the whole field and its proportions on black (a radiograph's edge may
            hold the finding), ``squash`` stretches, ``crop`` takes the central square (CLIP's own).
        interpolation: ``area`` averages when shrinking and is linear when enlarging; or ``linear``,
            ``cubic``.
    """

    size: int = 224
    resize: Literal["pad", "squash", "crop"] = "pad"
    interpolation: Literal["area", "linear", "cubic"] = "area"

    def __post_init__(self) -> None:
        known = (("pad", "squash", "crop"), ("area", "linear", "cubic"))
        if self.size < 1 or self.resize not in known[0] or self.interpolation not in known[1]:
            raise OptionError(
                "preprocessing that is not known", where=str(asdict(self)), hint=f"use one of {known}"
            )

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the settings and of this path's revision.

        >>> Preprocessing(size=224).digest == Preprocessing(size=224).digest
        True
        >>> Preprocessing(size=224).digest == Preprocessing(size=288).digest
        False
        """
        settings = json.dumps({"revision": 1, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(settings.encode()).hexdigest()

    def apply(self, image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring one image to the encoder's input.

        Args:
            image_HWC: uint8 (H, W) or (H, W, 3), any size of at least one pixel.

        Returns:
            uint8 (size, size, 3); gray images have three equal channels.

        >>> Preprocessing(size=4).apply(np.full((2, 8), 9, np.uint8))[:, 0, 0].tolist()
        [0, 9, 0, 0]
        """
        import cv2

        image = np.ascontiguousarray(image_HWC)
        height, width = image.shape[:2]
        if self.resize == "crop":
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            image = image[top : top + side, left : left + side]
        target_h, target_w = self._target(height, width)
        flags = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}
        if image.shape[:2] != (target_h, target_w):
            image = cv2.resize(image, (target_w, target_h), interpolation=flags[self.interpolation])
        if image.ndim == 2:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        if (target_h, target_w) == (self.size, self.size):
            return np.ascontiguousarray(image, dtype=np.uint8)
        canvas = np.zeros((self.size, self.size, 3), np.uint8)
        top, left = (self.size - target_h) // 2, (self.size - target_w) // 2
        canvas[top : top + target_h, left : left + target_w] = image
        return canvas

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self.resize != "pad":
            return self.size, self.size
        longer = max(height, width)
        return max(1, round(height * self.size / longer)), max(1, round(width * self.size / longer))
