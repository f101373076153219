"""The pixels of a record, whatever kind of file holds them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clinical_clip.data.nifti import read_slice
from clinical_clip.data.picture import read_picture
from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.dicom.pixels import read_frame
from clinical_clip.errors import CorruptImage, DecoderFailed, ImageRejected
from clinical_clip.types import ImageRecord, MediaKind

__all__ = ["load_pixels"]

_READERS: dict[MediaKind, Callable[..., NDArray[np.uint8]]] = {
    MediaKind.DICOM: read_frame,
    MediaKind.PICTURE: read_picture,
    MediaKind.NIFTI: read_slice,
}


def load_pixels(record: ImageRecord, *, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Pixels of one record: (H, W) grey or (H, W, 3) RGB, uint8, never empty.

    Raises:
        ImageRejected: one of its kinds, whatever went wrong. Its text quotes nothing out of the file.
    """
    try:
        pixels = _READERS[record.kind](record.path, record.frame, limits=limits)
    except ImageRejected:
        raise
    except MemoryError:
        raise DecoderFailed("out of memory", where=record.name, hint="lower max_pixels") from None
    except OSError as error:
        what = f"cannot be read ({error.strerror or type(error).__name__})"
        raise CorruptImage(what, where=record.name, hint="check the file and its permissions") from None
    except Exception as error:
        what = f"cannot be decoded ({type(error).__name__})"
        raise CorruptImage(what, where=record.name, hint="fetch the file again") from None
    grey_or_rgb = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not grey_or_rgb or pixels.size == 0:
        raise CorruptImage("decodes to no image", where=record.name, hint="fetch the file again")
    return pixels
