"""Ordinary pictures: PNG, JPEG, TIFF, WebP, GIF and BMP as 8-bit pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.errors import CorruptImage

__all__ = ["page_count", "read_picture"]


def page_count(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> int:
    """Pages of a TIFF; 1 for everything else (an animation counts as its first frame)."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return int(getattr(image, "n_frames", 1)) if image.format == "TIFF" else 1
    except Exception as error:
        raise CorruptImage(f"not a picture ({type(error).__name__})", where=path.name) from None


def read_picture(path: Path, page: int = 0, *, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Page ``page`` (from 0) of the picture: (H, W) grey or (H, W, 3) RGB.

    Raises:
        ImageRejected: one of its kinds; nothing else leaves this function for a bad file.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            image.seek(page)
            upright = ImageOps.exif_transpose(image)
            grey = upright.mode in ("1", "L")
            return np.asarray(upright.convert("L" if grey else "RGB"), dtype=np.uint8)
    except Exception as error:
        raise CorruptImage(f"cannot be decoded ({type(error).__name__})", where=path.name) from None
