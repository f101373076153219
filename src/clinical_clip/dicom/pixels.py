"""One frame of a DICOM file as 8-bit pixels ready for display (PS3.3 C.7.6.3, C.11)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.errors import CorruptImage

__all__ = ["read_frame"]


def read_frame(path: Path, frame: int = 0, *, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Frame ``frame`` (from 0) of the file: (H, W) for monochrome, (H, W, 3) RGB for colour.

    Raises:
        ImageRejected: one of its kinds; nothing else leaves this function for a bad file.
    """
    import pydicom
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
    from pydicom.pixels.utils import pixel_array

    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        stored = pixel_array(path, index=frame)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            stored = apply_color_lut(stored, dataset)
            return np.asarray(stored // 256 if stored.dtype == np.uint16 else stored, dtype=np.uint8)
        if stored.ndim == 3:
            return np.asarray(stored, dtype=np.uint8)
        values = apply_voi_lut(apply_modality_lut(stored, dataset), dataset).astype(np.float64)
        low, high = np.percentile(values, (0.5, 99.5))
        image = np.clip((values - low) / max(high - low, 1e-9) * 255 + 0.5, 0, 255).astype(np.uint8)
        return np.asarray(255 - image) if dataset.PhotometricInterpretation == "MONOCHROME1" else image
    except Exception as error:
        raise CorruptImage(
            f"cannot be decoded as DICOM ({type(error).__name__})", where=path.name, hint="check the file"
        ) from None
