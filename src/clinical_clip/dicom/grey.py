"""From stored grey values to what is shown: modality and VOI transformation (PS3.3 C.11.1, C.11.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinical_clip.dicom.elements import Elements
from clinical_clip.dicom.image import ImagePixel, frame_groups
from clinical_clip.errors import CorruptImage

__all__ = ["GreyTransform", "LookupTable", "Rescale", "Window", "WindowSource", "read_grey_transform"]

_MODALITY_SEQUENCE, _VOI_SEQUENCE = 0x00283000, 0x00283010
_LUT_DESCRIPTOR, _LUT_DATA = 0x00283002, 0x00283006
_RESCALE_GROUP, _VOI_GROUP = 0x00289145, 0x00289132
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


class WindowSource(StrEnum):
    """Where the contrast of a rendered frame comes from."""

    LUT = "lut"
    """The file's VOI LUT Sequence."""
    WINDOW = "window"
    """The file's Window Center and Width."""
    FULL_RANGE = "full-range"
    """No window given; 8-bit values as they are."""
    PERCENTILES = "percentiles"
    """No usable window given: a fallback between percentiles of the frame's own values."""
    COLOUR = "colour"
    """Colour: no window applies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rescale:
    """Stored value x slope + intercept (PS3.3 C.11.1.1.2)."""

    slope: float
    intercept: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LookupTable:
    """A LUT as PS3.3 C.11.1.1.1 has it: values below ``first`` take the first entry, above, the last."""

    first: int
    bits: int
    entries: bytes
    """``uint16`` in native byte order; bytes, so that it can be a key."""

    def __call__(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Look up ``values``; fractions are cut off."""
        entries = np.frombuffer(self.entries, np.uint16)
        return entries[np.clip(values - float(self.first), 0, len(entries) - 1).astype(np.intp)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Window Center, Width and VOI LUT Function (PS3.3 C.11.2.1.2, C.11.2.1.3)."""

    center: float
    width: float
    function: str = "LINEAR"

    def __call__(self, values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
        """``values`` mapped to [low, high], operation for operation as pydicom's ``apply_windowing``."""
        span = high - low
        center, width = self.center, self.width
        if self.function == "SIGMOID":
            with np.errstate(over="ignore"):
                return np.asarray(span / (1 + np.exp(-4 * (values - center) / width)) + low)
        if self.function == "LINEAR":
            center, width = center - 0.5, width - 1
        below, above = values <= center - width / 2, values > center + width / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            shown = ((values - center) / width + 0.5) * span + low
        return np.where(below, low, np.where(above, high, shown))


@dataclass(frozen=True, kw_only=True, slots=True)
class GreyTransform:
    """All that decides how a stored grey value is shown. Hashable, so that its table can be kept."""

    modality: Rescale | LookupTable | None
    voi: Window | LookupTable | None
    source: WindowSource
    bits_stored: int
    signed: bool
    inverse: bool
    padding: tuple[float, float] | None

    def modality_values(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Stored values in the modality's units (PS3.3 C.11.1)."""
        if isinstance(self.modality, LookupTable):
            return self.modality(stored)
        if isinstance(self.modality, Rescale):
            return stored.astype(np.float64) * self.modality.slope + self.modality.intercept
        return stored

    def modality_range(self) -> tuple[float, float]:
        """What the least and greatest stored value become."""
        low, high = (-(2 ** (self.bits_stored - 1)), 2 ** (self.bits_stored - 1) - 1)
        if not self.signed:
            low, high = 0, 2**self.bits_stored - 1
        if isinstance(self.modality, LookupTable):
            return 0.0, float(2**self.modality.bits - 1)
        if isinstance(self.modality, Rescale):
            slope, intercept = self.modality.slope, self.modality.intercept
            return low * slope + intercept, high * slope + intercept
        return float(low), float(high)

    def show(self, stored: NDArray[Any], fallback: tuple[float, float] | None = None) -> NDArray[np.uint8]:
        """Stored values as they are shown, 0 (black) to 255.

        The VOI output y in [low, high] becomes floor((y - low) / (high - low) * 255 + 0.5). ``fallback``
        is a window's two ends in modality units, for ``WindowSource.PERCENTILES``.
        """
        values = self.modality_values(stored)
        low, high = self.modality_range()
        if isinstance(self.voi, LookupTable):
            shown: NDArray[Any] = self.voi(values).astype(np.float64)
            low, high = 0.0, float(2**self.voi.bits - 1)
        elif isinstance(self.voi, Window):
            shown = self.voi(values.astype(np.float64), low, high)
        else:
            shown = values.astype(np.float64)
            low, high = fallback or (min(low, high), max(low, high))
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = (shown - low) / ((high - low) or 1.0) * 255 + 0.5
        grey: NDArray[np.uint8] = np.clip(np.nan_to_num(np.floor(scaled)), 0, 255).astype(np.uint8)
        if self.inverse:
            grey = np.subtract(255, grey, dtype=np.uint8)
        if self.padding is not None:
            grey[(stored >= self.padding[0]) & (stored <= self.padding[1])] = 0
        if stored.dtype.kind == "f":
            grey[np.isnan(stored)] = 0
        return grey


def read_grey_transform(elements: Elements, image: ImagePixel, frame: int) -> GreyTransform:
    """The transformation of one frame. Functional groups come before the data set's own attributes.

    Raises:
        CorruptImage: a rescale slope of 0 or NaN, or a LUT shorter than it says.
    """
    modality = _modality(elements, image, frame)
    partial = GreyTransform(
        modality=modality,
        voi=None,
        source=WindowSource.PERCENTILES,
        bits_stored=image.bits_stored,
        signed=image.signed,
        inverse=image.photometric == "MONOCHROME1",
        padding=_padding(elements, image),
    )
    voi = _voi(elements, frame, negative=min(partial.modality_range()) < 0)
    if isinstance(voi, LookupTable):
        source = WindowSource.LUT
    elif voi is not None:
        source = WindowSource.WINDOW
    elif image.bits_stored <= 8 and modality is None and not image.is_float:
        source = WindowSource.FULL_RANGE
    else:
        source = WindowSource.PERCENTILES
    return GreyTransform(
        modality=modality,
        voi=voi,
        source=source,
        bits_stored=image.bits_stored,
        signed=image.signed,
        inverse=partial.inverse,
        padding=partial.padding,
    )


def _modality(elements: Elements, image: ImagePixel, frame: int) -> Rescale | LookupTable | None:
    if items := elements.items(_MODALITY_SEQUENCE):
        return read_lut(items[0], negative=image.signed)
    for group in frame_groups(elements, frame):
        holders = group.items(_RESCALE_GROUP) if group is not elements else [elements]
        for holder in holders[:1]:
            slope, intercept = holder.numbers(0x00281053), holder.numbers(0x00281052)
            if not (0x00281053 in holder and 0x00281052 in holder):
                continue
            if not slope or not intercept or not math.isfinite(slope[0] * intercept[0]) or slope[0] == 0:
                raise CorruptImage(
                    "Rescale Slope or Intercept is not a usable number",
                    where=elements.source.name,
                    hint="have the file checked by whoever wrote it",
                )
            return Rescale(slope=slope[0], intercept=intercept[0])
    return None


def _voi(elements: Elements, frame: int, *, negative: bool) -> Window | LookupTable | None:
    """The first VOI LUT, else the first usable window, of the nearest place that has one."""
    for group in frame_groups(elements, frame):
        holders = group.items(_VOI_GROUP) if group is not elements else [elements]
        for holder in holders[:1]:
            for item in holder.items(_VOI_SEQUENCE)[:1]:
                if _LUT_DESCRIPTOR in item and _LUT_DATA in item:
                    return read_lut(item, negative=negative)
            if window := _window(holder):
                return window
    return None


def _window(holder: Elements) -> Window | None:
    function = holder.text(0x00281056).upper() or "LINEAR"
    if function not in _FUNCTIONS:
        return None
    least = 1.0 if function == "LINEAR" else math.ulp(0.0)
    for center, width in zip(holder.numbers(0x00281050), holder.numbers(0x00281051), strict=False):
        if math.isfinite(center) and math.isfinite(width) and width >= least:
            return Window(center=center, width=width, function=function)
    return None


def _padding(elements: Elements, image: ImagePixel) -> tuple[float, float] | None:
    """Pixel Padding Value and Range Limit (PS3.3 C.7.5.1.1.2; C.7.6.24, C.7.6.25 for float pixels)."""
    letter = "h" if image.signed else "H"
    tags = {0x7FE00008: (0x00280122, 0x00280124), 0x7FE00009: (0x00280123, 0x00280125)}
    value_tag, limit_tag = tags.get(image.pixel_tag, (0x00280120, 0x00280121))
    values = elements.numbers(value_tag, letter)[:1]
    if not values:
        return None
    values += elements.numbers(limit_tag, letter)[:1]
    return min(values), max(values)


def read_lut(item: Elements, *, negative: bool) -> LookupTable:
    """The LUT of a sequence item (PS3.3 C.11.1.1.1, C.11.2.1.1).

    Args:
        item: the item that holds LUT Descriptor and LUT Data.
        negative: the values looked up may be negative, so that an untyped first value is signed.

    Raises:
        CorruptImage: fewer data than the descriptor says, or a bit depth that cannot be.
    """
    descriptor = item.numbers(_LUT_DESCRIPTOR, "H")
    name = item.source.name
    if len(descriptor) < 3 or not 1 <= descriptor[2] <= 16:
        raise CorruptImage("LUT Descriptor is damaged", where=name)
    count, first, bits = int(descriptor[0]) & 0xFFFF or 1 << 16, int(descriptor[1]), int(descriptor[2])
    vr = item.found[_LUT_DESCRIPTOR].vr
    if negative and vr not in (b"US", b"SS") and first >= 1 << 15:
        first -= 1 << 16
    data = item.raw(_LUT_DATA)
    if len(data) >= 2 * count:
        entries = np.frombuffer(data, f"{item.encoding.order}u2", count)
    elif bits <= 8 and len(data) >= count:
        entries = np.frombuffer(data, np.uint8, count)
    else:
        raise CorruptImage("LUT Data are shorter than their descriptor says", where=name)
    return LookupTable(first=first, bits=bits, entries=entries.astype(np.uint16).tobytes())
