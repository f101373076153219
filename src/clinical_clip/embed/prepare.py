"""What the decoder processes run: one record's pixels, brought to the encoder's input.

Imported by every child process, so it imports neither OpenVINO nor the index.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clinical_clip.data.load import load_pixels
from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.embed.preprocess import Preprocessing
from clinical_clip.types import ImageRecord

__all__ = ["prepare"]


def prepare(
    record: ImageRecord, *, preprocessing: Preprocessing, limits: Limits = DEFAULT_LIMITS
) -> NDArray[np.uint8]:
    """Read and resize: uint8 (size, size, 3). Raises ``ImageRejected`` as ``load_pixels`` does."""
    return preprocessing.apply(load_pixels(record, limits=limits))
