"""The Image Pixel module (PS3.3 C.7.6.3), checked before anything is allocated for its pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clinical_clip.dicom.elements import PIXEL_TAGS, Element, Elements
from clinical_clip.dicom.limits import Limits
from clinical_clip.dicom.part10 import Part10
from clinical_clip.errors import CorruptImage, LimitExceeded, NoPixels, UnsupportedImage

__all__ = ["FLOAT_PIXELS", "ImagePixel", "frame_groups", "read_image_pixel"]

FLOAT_PIXELS = {0x7FE00008: "f4", 0x7FE00009: "f8"}
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_SHARED_GROUPS, _PER_FRAME_GROUPS = 0x52009229, 0x52009230


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePixel:
    """What the pixels of a file are. Attributes are named as in PS3.3 C.7.6.3.

    Attributes:
        pixel_tag: which pixel data element there is.
        pixels: where it is.
        signed: Pixel Representation is 1.
    """

    rows: int
    columns: int
    samples: int
    photometric: str
    planar: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    n_frames: int
    pixel_tag: int
    pixels: Element

    @property
    def monochrome(self) -> bool:
        """One grey value a pixel, to be windowed."""
        return self.photometric in _MONOCHROME

    @property
    def is_float(self) -> bool:
        """The pixels are floating point numbers (PS3.3 C.7.6.24, C.7.6.25)."""
        return self.pixel_tag in FLOAT_PIXELS


def read_image_pixel(file: Part10, limits: Limits) -> ImagePixel:
    """Read and check the Image Pixel module.

    Raises:
        NoPixels: a valid file without pixel data.
        LimitExceeded: too many pixels or frames.
        CorruptImage, UnsupportedImage: values that cannot be or are not read.
    """
    elements, name = file.elements, file.elements.source.name
    pixel_tag = next((tag for tag in PIXEL_TAGS if tag in elements), 0)
    if not pixel_tag:
        raise NoPixels("no pixel data", where=name, hint="nothing to index in this file")
    is_float = pixel_tag in FLOAT_PIXELS
    allocated = _whole(elements, 0x00280100, "Bits Allocated")
    stored = allocated if is_float else elements.whole(0x00280101, allocated) or 0
    image = ImagePixel(
        rows=_whole(elements, 0x00280010, "Rows"),
        columns=_whole(elements, 0x00280011, "Columns"),
        samples=elements.whole(0x00280002, 1) or 0,
        photometric=elements.text(0x00280004).upper() or "MONOCHROME2",
        planar=elements.whole(0x00280006, 0) or 0,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=stored - 1 if is_float else elements.whole(0x00280102, stored - 1) or 0,
        signed=elements.whole(0x00280103, 0) == 1,
        n_frames=_n_frames(elements),
        pixel_tag=pixel_tag,
        pixels=elements.found[pixel_tag],
    )
    _check_limits(image, limits, name)
    _check_values(image, name)
    if is_float and allocated != 8 * int(FLOAT_PIXELS[pixel_tag][1]):
        raise CorruptImage("Bits Allocated does not fit the float pixel data", where=name)
    return image


def _whole(elements: Elements, tag: int, keyword: str) -> int:
    value = elements.whole(tag)
    if value is None or value <= 0:
        raise CorruptImage(
            f"{keyword} is missing or not a positive number",
            where=elements.source.name,
            hint="have the file checked by whoever wrote it",
        )
    return value


def _n_frames(elements: Elements) -> int:
    frames = elements.whole(0x00280008, 1, "")
    return frames if frames and frames > 0 else 1


def _check_limits(image: ImagePixel, limits: Limits, name: str) -> None:
    if image.rows * image.columns > limits.max_pixels:
        raise LimitExceeded(
            f"{image.rows} x {image.columns} pixels in a frame", where=name, hint="raise max_pixels"
        )
    if image.n_frames > limits.max_frames:
        raise LimitExceeded(f"{image.n_frames:,} frames", where=name, hint="raise max_frames")


def _check_values(image: ImagePixel, name: str) -> None:
    hint = "have the file checked by whoever wrote it"
    if image.photometric not in (*_MONOCHROME, *_COLOUR, "PALETTE COLOR"):
        raise UnsupportedImage("Photometric Interpretation is none that is read", where=name, hint=hint)
    if image.samples != (3 if image.photometric in _COLOUR else 1):
        raise CorruptImage(
            "Samples per Pixel does not fit the Photometric Interpretation", where=name, hint=hint
        )
    if image.bits_allocated not in (1, 8, 16, 32, 64):
        raise UnsupportedImage(f"{image.bits_allocated} Bits Allocated", where=name, hint=hint)
    if not 0 < image.bits_stored <= image.bits_allocated:
        raise CorruptImage("Bits Stored does not fit Bits Allocated", where=name, hint=hint)
    if not image.bits_stored - 1 <= image.high_bit < image.bits_allocated:
        raise CorruptImage("High Bit does not fit Bits Stored", where=name, hint=hint)
    if image.planar not in (0, 1):
        raise CorruptImage("Planar Configuration is neither 0 nor 1", where=name, hint=hint)
    if image.samples == 3 and (image.bits_allocated not in (8, 16, 32) or image.signed or image.is_float):
        raise UnsupportedImage("colour of this bit depth", where=name, hint=hint)


def frame_groups(elements: Elements, frame: int) -> list[Elements]:
    """Where an attribute of ``frame`` may stand, nearest first: per-frame, shared, data set.

    Per-frame and shared functional groups are those of PS3.3 C.7.6.16.
    """
    per_frame = elements.items(_PER_FRAME_GROUPS)
    shared = elements.items(_SHARED_GROUPS)
    return [*per_frame[frame : frame + 1], *shared[:1], elements]


def finite(values: list[float]) -> list[float]:
    """``values`` if all are finite, else none."""
    return values if all(math.isfinite(value) for value in values) else []
