"""One frame of a DICOM file as 8-bit pixels ready for display (PS3.3 C.7.6.3, C.11; PS3.4 N.2).

Stored value → modality LUT or rescale → VOI LUT or window → MONOCHROME1 inverted → 8 bits. For values
of 8 and 16 bits the whole way is a table of 256 or 65,536 entries, looked up once a pixel.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinical_clip.dicom.decode import decode_frame
from clinical_clip.dicom.grey import GreyTransform, Window, WindowSource, read_grey_transform
from clinical_clip.dicom.image import ImagePixel, frame_groups, read_image_pixel
from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.dicom.palette import read_palette
from clinical_clip.dicom.part10 import Part10, open_part10
from clinical_clip.errors import CorruptImage, ImageRejected

__all__ = ["Rendered", "read_frame", "render_frame", "show_grey"]

_LOW_PERCENT, _HIGH_PERCENT = 0.5, 99.5
_BLOCK_PIXELS = 1 << 18
_LEAST_STRETCH, _MOST_STRETCH = 1.01, 20.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rendered:
    """A frame as it is shown.

    Attributes:
        pixels: (H, W) or (H, W, 3) ``uint8``, 0 is black.
        source: where the contrast comes from; ``PERCENTILES`` marks a fallback.
        window: the window that was applied, if one was.
        row_spacing_ratio: height of a stored pixel by its width (1.0 where unknown).
    """

    pixels: NDArray[np.uint8]
    source: WindowSource
    window: Window | None = None
    row_spacing_ratio: float = 1.0


def read_frame(path: Path, frame: int = 0, *, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Frame ``frame`` (from 0) of the file: (H, W) for monochrome, (H, W, 3) RGB for colour.

    Raises:
        ImageRejected: one of its kinds; nothing else leaves this function for a bad file.
    """
    return render_frame(path, frame, limits=limits).pixels


def render_frame(
    path: Path, frame: int = 0, *, square: bool = True, limits: Limits = DEFAULT_LIMITS
) -> Rendered:
    """Like ``read_frame``, and says where the contrast comes from.

    Args:
        path: a DICOM file.
        frame: which frame, from 0. Only this one is read and decoded.
        square: stretch frames whose pixels are not square (Pixel Aspect Ratio, Pixel Spacing) so that
            shapes are true.
        limits: caps that are checked before anything is allocated.

    Raises:
        ImageRejected: one of its kinds; nothing else leaves this function for a bad file.
    """
    try:
        file, image = _open(path, limits)
        if not 0 <= frame < image.n_frames:
            raise CorruptImage(f"no frame {frame} among {image.n_frames}", where=path.name)
        rendered = _render(file, image, frame)
        ratio = _row_spacing_ratio(file, frame)
        pixels = _stretch(rendered.pixels, ratio, limits) if square else rendered.pixels
        return Rendered(
            pixels=pixels, source=rendered.source, window=rendered.window, row_spacing_ratio=ratio
        )
    except ImageRejected as error:
        error.where = error.where or path.name
        raise
    except MemoryError:
        raise
    except Exception as error:
        raise CorruptImage(
            f"cannot be decoded as DICOM ({type(error).__name__})",
            where=path.name,
            hint="have the file checked by whoever wrote it",
        ) from None


_last: tuple[object, Part10, ImagePixel] | None = None


def _open(path: Path, limits: Limits) -> tuple[Part10, ImagePixel]:
    """The parsed header. The last multi-frame file's is kept: its frames come one after the other."""
    global _last  # noqa: PLW0603 - replaced as a whole, so threads see one or the other
    try:
        status = os.stat(path)
    except OSError:
        raise CorruptImage("no such file", where=path.name, hint="check the path") from None
    key = (os.fspath(path), status.st_ino, status.st_size, status.st_mtime_ns, limits)
    kept = _last
    if kept is not None and kept[0] == key:
        return kept[1], kept[2]
    file = open_part10(path, limits)
    image = read_image_pixel(file, limits)
    _last = (key, file, image) if image.n_frames > 1 else None
    return file, image


def _render(file: Part10, image: ImagePixel, frame: int) -> Rendered:
    if image.monochrome:
        transform = read_grey_transform(file.elements, image, frame)
        stored = decode_frame(file, image, frame)
        window = transform.voi if isinstance(transform.voi, Window) else None
        unused = file.native and image.bits_allocated in (8, 16)
        shift = image.high_bit + 1 - image.bits_stored if unused else 0
        bits = image.bits_stored if unused else 8 * stored.dtype.itemsize
        return Rendered(
            pixels=show_grey(stored, transform, shift, bits), source=transform.source, window=window
        )
    stored = decode_frame(file, image, frame)
    if image.photometric == "PALETTE COLOR":
        first, palette = read_palette(file.elements, signed=image.signed)
        return Rendered(pixels=_paint(stored, first, palette), source=WindowSource.COLOUR)
    if stored.dtype != np.uint8 or image.bits_stored < 8:
        stored = _colour(stored, image.bits_stored)
    return Rendered(pixels=np.ascontiguousarray(stored), source=WindowSource.COLOUR)


def show_grey(stored: NDArray[Any], transform: GreyTransform, shift: int, bits: int) -> NDArray[np.uint8]:
    """Show a grey frame: by table for 8 and 16 bits, in blocks for others."""
    if stored.dtype.kind == "f" or stored.dtype.itemsize > 2:
        return _grey_in_blocks(stored, transform)
    values = _code_values(stored.dtype.str, shift, bits)
    if transform.source is not WindowSource.PERCENTILES:
        return _look_up(stored, _grey_table(transform, stored.dtype.str, shift, bits))
    counts = _count(stored)
    if transform.padding is not None:
        counts[(values >= transform.padding[0]) & (values <= transform.padding[1])] = 0
    seen = np.flatnonzero(counts)
    ends = _ends(transform.modality_values(values[seen]), counts[seen])
    table = np.zeros(values.size, np.uint8)
    table[seen] = transform.show(values[seen], ends)
    if transform.padding is not None:
        table[(values >= transform.padding[0]) & (values <= transform.padding[1])] = 0
    return _look_up(stored, table)


@lru_cache(maxsize=8)
def _code_values(dtype: str, shift: int, bits: int) -> NDArray[Any]:
    """The stored value that each bit pattern of the type means: unused bits are ignored (PS3.5 8.1.1)."""
    kind = np.dtype(dtype)
    codes = np.arange(1 << 8 * kind.itemsize, dtype=f"u{kind.itemsize}").view(kind)
    spare = 8 * kind.itemsize - bits
    if spare == 0:
        return codes
    return np.asarray(np.right_shift(np.left_shift(codes, spare - shift), spare))


@lru_cache(maxsize=32)
def _grey_table(transform: GreyTransform, dtype: str, shift: int, bits: int) -> NDArray[np.uint8]:
    return transform.show(_code_values(dtype, shift, bits))


def _colour(stored: NDArray[Any], bits_stored: int) -> NDArray[np.uint8]:
    """Colour samples of other than 8 bits: v becomes floor(v / (2**bits_stored - 1) * 255 + 0.5)."""
    if stored.dtype.itemsize > 2:
        shown = np.empty(stored.shape, np.uint8)
        rows = max(1, _BLOCK_PIXELS // shown[0].size)
        for start in range(0, len(shown), rows):
            shown[start : start + rows] = _to_8_bits(stored[start : start + rows], bits_stored)
        return shown
    return _look_up(stored, _to_8_bits(np.arange(1 << 8 * stored.dtype.itemsize), bits_stored))


def _to_8_bits(values: NDArray[Any], bits_stored: int) -> NDArray[np.uint8]:
    grey = np.floor(values / (2**bits_stored - 1) * 255 + 0.5)
    return np.asarray(np.clip(grey, 0, 255), np.uint8)


def _look_up(stored: NDArray[Any], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``table`` at each bit pattern of ``stored`` (8 or 16 bits)."""
    import cv2

    codes = np.ascontiguousarray(stored).view(f"u{stored.dtype.itemsize}")
    if codes.ndim == 3:
        return _look_up(codes.reshape(codes.shape[0], -1), table).reshape(codes.shape)
    try:
        return np.asarray(cv2.LUT(codes, table.reshape(1, -1)))
    except cv2.error:  # older OpenCV looks up 8 bits only
        return np.asarray(table[codes])


def _count(stored: NDArray[Any]) -> NDArray[np.float64]:
    """How often each bit pattern of ``stored`` occurs."""
    import cv2

    codes = np.ascontiguousarray(stored).view(f"u{stored.dtype.itemsize}")
    size = 1 << 8 * stored.dtype.itemsize
    return np.asarray(cv2.calcHist([codes], [0], None, [size], [0, size]), np.float64).reshape(-1)


def _ends(values: NDArray[Any], counts: NDArray[np.float64]) -> tuple[float, float]:
    """The fallback window: the values at 0.5 and 99.5 % by nearest rank, else the least and greatest."""
    if values.size == 0:
        return 0.0, 1.0
    order = np.argsort(values, kind="stable")
    sums = np.cumsum(counts[order])
    ranks = np.ceil(sums[-1] * np.array([_LOW_PERCENT, _HIGH_PERCENT]) / 100)
    low, high = values[order][np.searchsorted(sums, ranks)]
    if low == high:
        low, high = values.min(), values.max()
    return float(low), float(high)


def _grey_in_blocks(stored: NDArray[Any], transform: GreyTransform) -> NDArray[np.uint8]:
    """32-bit, 64-bit and float frames: no table has so many entries, so a block of pixels at a time."""
    flat = stored.reshape(-1)
    ends = None
    if transform.source is WindowSource.PERCENTILES:
        usable = flat[np.isfinite(flat)] if flat.dtype.kind == "f" else flat
        if transform.padding is not None:
            usable = usable[(usable < transform.padding[0]) | (usable > transform.padding[1])]
        values, counts = np.unique(usable, return_counts=True)
        ends = _ends(transform.modality_values(values), counts.astype(np.float64))
    shown = np.empty(flat.shape, np.uint8)
    for start in range(0, flat.size, _BLOCK_PIXELS):
        block = slice(start, start + _BLOCK_PIXELS)
        shown[block] = transform.show(flat[block], ends)
    return shown.reshape(stored.shape)


def _paint(stored: NDArray[Any], first: int, palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if stored.dtype.itemsize > 2:
        raise CorruptImage("palette colour of more than 16 bits")
    values = _code_values(stored.dtype.str, 0, 8 * stored.dtype.itemsize).astype(np.int64)
    table = palette[np.clip(values - first, 0, len(palette) - 1)]
    return np.stack([_look_up(stored, np.ascontiguousarray(table[:, c])) for c in range(3)], axis=2)


def _row_spacing_ratio(file: Part10, frame: int) -> float:
    """Height of a pixel by its width: Pixel Aspect Ratio (C.7.6.3.1.7), else a spacing (10.7.1)."""
    elements = file.elements
    for group in frame_groups(elements, frame):
        holders = group.items(0x00289110) if group is not elements else [elements]
        for holder in holders[:1]:
            for tag in (0x00280034, 0x00280030, 0x00181164):
                pair = holder.numbers(tag)
                if len(pair) >= 2 and min(pair[:2]) > 0 and max(pair[:2]) < float("inf"):
                    return pair[0] / pair[1]
    return 1.0


def _stretch(pixels: NDArray[np.uint8], ratio: float, limits: Limits) -> NDArray[np.uint8]:
    """Square pixels, by making the longer side of a pixel the measure."""
    import cv2

    amount = max(ratio, 1 / ratio)
    if not _LEAST_STRETCH < amount <= _MOST_STRETCH:
        return pixels
    rows, columns = pixels.shape[:2]
    if ratio > 1:
        rows = max(1, round(rows * ratio))
    else:
        columns = max(1, round(columns / ratio))
    if rows * columns > limits.max_pixels:
        return pixels
    return np.asarray(cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_LINEAR), np.uint8)
