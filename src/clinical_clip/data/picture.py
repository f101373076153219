"""Ordinary pictures: PNG, JPEG, TIFF, WebP, GIF and BMP as 8-bit pixels.

A file always takes the same way, for indexing and for queries: PNG and grey and colour JPEG through
OpenCV, all else through Pillow. What each kind becomes is written in ``read_picture``.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinical_clip.data.picture_headers import check_tiff, read_jpeg_header, read_png_header, sniff
from clinical_clip.dicom.bytesource import ByteSource
from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.dicom.quiet import quiet
from clinical_clip.errors import CorruptImage, ImageRejected, LimitExceeded, UnsupportedImage

__all__ = ["page_count", "read_picture"]

_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP")
_ORIENTATION = 0x0112
_BLOCK_SAMPLES = 1 << 18


def page_count(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> int:
    """Pages of a TIFF; 1 for everything else (an animation counts as its first frame).

    Raises:
        ImageRejected: one of its kinds; nothing else leaves this function for a bad file.
    """
    source, kind = _identify(path, limits)
    if kind != "TIFF":
        return 1
    from PIL import Image

    try:
        with quiet(), Image.open(BytesIO(_all(source, limits)), formats=["TIFF"]) as image:
            pages = int(getattr(image, "n_frames", 1))
    except MemoryError:
        raise
    except Exception as error:
        raise _undecodable(error, path) from None
    if pages > limits.max_frames:
        raise LimitExceeded(f"{pages:,} pages", where=path.name, hint="raise max_frames")
    return pages


def read_picture(path: Path, page: int = 0, *, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Page ``page`` (from 0) of the picture: (H, W) grey or (H, W, 3) RGB, 0 is black.

    - EXIF orientation is applied.
    - Alpha is laid over black.
    - 16-bit samples of the full range: v becomes floor(v / 257 + 0.5). (Of 16-bit colour TIFF, the
      upper byte.) 32-bit and float greys have no range of their own: least to greatest value.
    - CMYK and other colour spaces become RGB by Pillow's formulas; colour profiles are not applied.
    - Of an animation, the first frame.

    Raises:
        ImageRejected: one of its kinds; nothing else leaves this function for a bad file.
    """
    try:
        source, kind = _identify(path, limits)
        if page and kind != "TIFF":
            raise CorruptImage(f"no page {page}", where=path.name)
        data = _all(source, limits)
        with quiet():
            return np.ascontiguousarray(_decode(data, kind, page, path.name, limits))
    except (ImageRejected, MemoryError):
        raise
    except Exception as error:
        raise _undecodable(error, path) from None


def _undecodable(error: Exception, path: Path) -> ImageRejected:
    if type(error).__name__ == "DecompressionBombError":  # Pillow's own cap, above ours
        return LimitExceeded("more pixels than allowed", where=path.name, hint="raise max_pixels")
    what = f"picture does not decode ({type(error).__name__})"
    return CorruptImage(what, where=path.name, hint="check that it opens elsewhere")


def _identify(path: Path, limits: Limits) -> tuple[ByteSource, str]:
    source = ByteSource.open(path, limits)
    kind, read = sniff(source.read(0, 512))
    if not read:
        what = f"{kind} is not a picture that is read" if kind else "not a picture"
        raise UnsupportedImage(what, where=path.name, hint="give PNG, JPEG, TIFF, WebP, GIF or BMP")
    return source, kind


def _all(source: ByteSource, limits: Limits) -> bytes:
    if source.size > limits.max_inflated_bytes:
        raise LimitExceeded(
            f"picture file has {source.size:,} bytes", where=source.name, hint="raise max_inflated_bytes"
        )
    return source.read(0, source.size)


def _decode(data: bytes, kind: str, page: int, where: str, limits: Limits) -> NDArray[np.uint8]:
    if kind == "JPEG":
        jpeg = read_jpeg_header(data, where)
        _check_size(jpeg.width, jpeg.height, where, limits)
        if jpeg.precision != 8:
            raise UnsupportedImage(f"{jpeg.precision}-bit JPEG", where=where, hint="convert it to PNG")
        if jpeg.components in (1, 3):
            return _turn(_decode_jpeg(data, jpeg.components), _orientation(jpeg.exif))
    elif kind == "PNG":
        png = read_png_header(data, where)
        _check_size(png.width, png.height, where, limits)
        if b"acTL" not in png.chunks:  # Pillow knows which frame of an animation is the first
            return _turn(_decode_png(data), _orientation(png.exif))
    return _decode_by_pillow(data, kind, page, where, limits)


def _check_size(width: int, height: int, where: str, limits: Limits) -> None:
    if width <= 0 or height <= 0:
        raise CorruptImage("picture without pixels", where=where, hint="fetch it again")
    if width * height > limits.max_pixels:
        raise LimitExceeded(f"{height} x {width} pixels", where=where, hint="raise max_pixels")


def _decode_jpeg(data: bytes, components: int) -> NDArray[np.uint8]:
    import cv2

    flag = cv2.IMREAD_GRAYSCALE if components == 1 else cv2.IMREAD_COLOR
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError("JPEG does not decode")
    if components == 3:
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    return np.asarray(image)


def _decode_png(data: bytes) -> NDArray[np.uint8]:
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError("PNG does not decode")
    if image.dtype == np.uint16:
        image = _from_16_bits(image)
    if image.ndim == 2:
        return np.asarray(image)
    if image.shape[2] == 3:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image))
    return _over_black(image[..., 2::-1], image[..., 3])


def _from_16_bits(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """floor(v / 257 + 0.5)."""
    table = ((np.arange(1 << 16, dtype=np.uint32) + 128) // 257).astype(np.uint8)
    return _in_blocks(lambda rows: table[rows], samples.astype(np.uint16, copy=False), shape=samples.shape)


def _in_blocks(
    function: Callable[..., NDArray[Any]], *arrays: NDArray[Any], shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    """``function`` of some rows of ``arrays`` at a time, so that no wide copy of the whole is made."""
    result = np.empty(shape, np.uint8)
    rows = max(1, _BLOCK_SAMPLES // max(1, result[0].size))
    for start in range(0, shape[0], rows):
        result[start : start + rows] = function(*(array[start : start + rows] for array in arrays))
    return result


def _over_black(colour: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """round(colour x alpha / 255)."""
    wide = alpha[..., np.newaxis] if colour.ndim == 3 else alpha
    return _in_blocks(
        lambda rows, cover: (rows.astype(np.uint16) * cover + 127) // 255, colour, wide, shape=colour.shape
    )


def _orientation(exif_bytes: bytes) -> int:
    if not exif_bytes:
        return 1
    from PIL import Image

    exif = Image.Exif()
    try:
        exif.load(exif_bytes)
        return int(exif.get(_ORIENTATION, 1))
    except Exception:
        return 1


def _turn(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Upright, by EXIF orientation 1 to 8; others are taken for 1."""
    if orientation in (5, 6, 7, 8):
        image = np.swapaxes(image, 0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def _decode_by_pillow(data: bytes, kind: str, page: int, where: str, limits: Limits) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(BytesIO(data), formats=[kind]) as image:
        if page:
            image.seek(page)
        _check_size(*image.size, where, limits)
        if kind == "TIFF":
            check_tiff(image.tag_v2, len(data), where)  # type: ignore[attr-defined]
        image.load()  # turns a TIFF, and then takes its orientation away
        orientation = int(image.getexif().get(_ORIENTATION, 1))
        return _turn(_eight_bits(image), orientation)


def _eight_bits(image: Any) -> NDArray[np.uint8]:
    """A Pillow image as (H, W) or (H, W, 3) ``uint8``."""
    if image.mode in ("1", "L"):
        if "transparency" in image.info:
            return _flatten(image)
        return np.asarray(image.convert("L"), np.uint8)
    if image.mode.startswith("I;16"):
        return _from_16_bits(np.asarray(image).astype(np.uint16))
    if image.mode in ("I", "F"):
        return _by_range(np.asarray(image))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _flatten(image)
    return np.asarray(image.convert("RGB"), np.uint8)


def _flatten(image: Any) -> NDArray[np.uint8]:
    grey = image.mode in ("1", "L", "LA", "La") and not isinstance(image.info.get("transparency"), bytes)
    samples = np.asarray(image.convert("LA" if grey else "RGBA"), np.uint8)
    colour = samples[..., 0] if grey else samples[..., :3]
    return _over_black(colour, samples[..., -1])


def _by_range(values: NDArray[Any]) -> NDArray[np.uint8]:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    span = (high - low) or 1.0

    def scale(rows: NDArray[Any]) -> NDArray[Any]:
        wide = np.nan_to_num(rows.astype(np.float64), nan=low, posinf=high, neginf=low)
        return np.clip(np.floor((wide - low) / span * 255 + 0.5), 0, 255)

    return _in_blocks(scale, values, shape=values.shape)
