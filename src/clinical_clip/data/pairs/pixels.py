"""The pixels of a pair's image, whatever format holds them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clinical_clip.data.files import open_regular
from clinical_clip.data.load import load_pixels
from clinical_clip.data.pairs.pair import Pair
from clinical_clip.data.sniff import Format, sniff
from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.errors import CorruptImage
from clinical_clip.types import ImageRecord, MediaKind

__all__ = ["load_pair_pixels", "pair_record"]

_HEAD = 1 << 12
_KINDS = {Format.DICOM: MediaKind.DICOM, Format.NIFTI: MediaKind.NIFTI}


def pair_record(pair: Pair) -> ImageRecord:
    """The record that the readers of pixels take.

    Raises:
        ImageRejected: no file, or a format that is not read.
    """
    if not pair.has_image:
        raise CorruptImage("no image file was found", where=pair.pair_id, hint="see `data check`")
    try:
        with open_regular(pair.image) as file:
            kind = _KINDS.get(sniff(file.read(_HEAD), pair.image.name), MediaKind.PICTURE)
    except OSError as error:
        raise CorruptImage(
            f"cannot be read ({error.strerror or type(error).__name__})",
            where=pair.pair_id,
            hint="check the file and its permissions",
        ) from None
    return ImageRecord(
        image_id=pair.image_id or pair.pair_id,
        path=pair.image,
        relative_path=pair.pair_id,
        frame=pair.frame,
        kind=kind,
    )


def load_pair_pixels(pair: Pair, *, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Pixels (H, W) grey or (H, W, 3) RGB, uint8.

    Raises:
        ImageRejected: whatever is wrong with the file.
    """
    return load_pixels(pair_record(pair), limits=limits)
