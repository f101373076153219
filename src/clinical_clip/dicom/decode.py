"""Stored pixel values of one frame, decompressed (PS3.5 8, A.4)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinical_clip.dicom.fragments import codestream_size, frame_bytes, jp2_boxes_are_whole
from clinical_clip.dicom.image import FLOAT_PIXELS, ImagePixel
from clinical_clip.dicom.part10 import Part10
from clinical_clip.dicom.quiet import quiet
from clinical_clip.errors import CorruptImage, UnsupportedImage

__all__ = ["TRANSFER_SYNTAXES", "decode_frame"]

TRANSFER_SYNTAXES = {
    "1.2.840.10008.1.2": "Implicit VR Little Endian",
    "1.2.840.10008.1.2.1": "Explicit VR Little Endian",
    "1.2.840.10008.1.2.1.99": "Deflated Explicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian",
    "1.2.840.10008.1.2.4.50": "JPEG Baseline",
    "1.2.840.10008.1.2.4.51": "JPEG Extended",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless, first-order prediction",
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS Near-lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 Lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.201": "High-Throughput JPEG 2000 Lossless",
    "1.2.840.10008.1.2.4.202": "High-Throughput JPEG 2000 RPCL Lossless",
    "1.2.840.10008.1.2.4.203": "High-Throughput JPEG 2000",
    "1.2.840.10008.1.2.5": "RLE Lossless",
}
"""What is read, by Transfer Syntax UID."""
_RLE = "1.2.840.10008.1.2.5"


def decode_frame(file: Part10, image: ImagePixel, frame: int) -> NDArray[Any]:
    """The stored values of one frame: (H, W), or (H, W, 3) RGB for colour.

    The array has the type of Bits Allocated and Pixel Representation. Unused bits of native pixels are
    still in it. Only the bytes of this frame are read.

    Raises:
        CorruptImage: too few bytes, or a codestream that does not decode or declares another size.
        UnsupportedImage: a transfer syntax that is not read.
    """
    if file.native:
        return _native(file, image, frame)
    name = file.elements.source.name
    if file.transfer_syntax not in TRANSFER_SYNTAXES:
        raise UnsupportedImage(
            "transfer syntax is none that is read", where=name, hint="convert it to JPEG 2000 or uncompressed"
        )
    return _encapsulated(file, image, frame_bytes(file.elements, image, frame))


def _native(file: Part10, image: ImagePixel, frame: int) -> NDArray[Any]:
    elements, order = file.elements, file.elements.encoding.order
    if image.pixels.length < 0:
        raise CorruptImage("uncompressed pixel data of undefined length", where=elements.source.name)
    if image.bits_allocated == 1:
        return _bits(file, image, frame)
    halved = image.photometric == "YBR_FULL_422"
    samples = image.rows * image.columns * (2 if halved else image.samples)
    size = samples * image.bits_allocated // 8
    data = _pixel_bytes(file, image, frame * size, size)
    kind = FLOAT_PIXELS.get(image.pixel_tag, f"{'ui'[image.signed]}{image.bits_allocated // 8}")
    stored = np.frombuffer(data, dtype=f"{order}{kind}")
    if not elements.encoding.little:
        stored = stored.astype(stored.dtype.newbyteorder("="))
    if image.samples == 1:
        return stored.reshape(image.rows, image.columns)
    if halved:
        stored = _whole_chrominance(stored)
    elif image.planar == 1:
        stored = stored.reshape(3, image.rows, image.columns).transpose(1, 2, 0)
    stored = stored.reshape(image.rows, image.columns, 3)
    if not image.photometric.startswith("YBR"):
        return stored
    if image.photometric not in ("YBR_FULL", "YBR_FULL_422") or image.bits_allocated != 8:
        raise UnsupportedImage("uncompressed colour of this kind", where=elements.source.name)
    from pydicom.pixels.processing import convert_color_space

    return convert_color_space(stored, "YBR_FULL", "RGB")


def _pixel_bytes(file: Part10, image: ImagePixel, start: int, size: int) -> bytes:
    """``size`` bytes of the native pixel data element, ``start`` bytes into it."""
    element, source = image.pixels, file.elements.source
    swapped = not file.elements.encoding.little and image.bits_allocated == 8 and element.vr == b"OW"
    first, last = start, start + size
    if swapped:  # PS3.5 8.1.1: bytes of 16-bit words, in big-endian order
        first, last = start & ~1, last + (last & 1)
    if start + size > min(element.length, source.size - element.offset):
        raise CorruptImage("fewer pixel data than its size says", where=source.name, hint="fetch it again")
    data = source.read(element.offset + first, last - first)
    if len(data) < size:
        raise CorruptImage("file ends within its pixel data", where=source.name, hint="fetch it again")
    if swapped:
        data += b"\0" * (len(data) % 2)
        return np.frombuffer(data, np.uint16).byteswap().tobytes()[start - first : start - first + size]
    return data


def _bits(file: Part10, image: ImagePixel, frame: int) -> NDArray[np.uint8]:
    """Unpack 1-bit pixels, the least significant first; frames follow without padding (PS3.5 8.1.1)."""
    pixels = image.rows * image.columns
    first = frame * pixels
    data = _pixel_bytes(file, image, first // 8, -(-(first + pixels) // 8) - first // 8)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    return bits[first % 8 : first % 8 + pixels].reshape(image.rows, image.columns)


def _whole_chrominance(stored: NDArray[Any]) -> NDArray[Any]:
    """YBR_FULL_422's Y1 Y2 Cb Cr as Y1 Cb Cr Y2 Cb Cr (PS3.3 C.7.6.3.1.2)."""
    whole = np.empty(stored.size // 4 * 6, dtype=stored.dtype)
    whole[::6], whole[3::6] = stored[::4], stored[1::4]
    whole[1::6] = whole[4::6] = stored[2::4]
    whole[2::6] = whole[5::6] = stored[3::4]
    return whole


def _encapsulated(file: Part10, image: ImagePixel, codestream: bytes) -> NDArray[Any]:
    from pydicom.pixels.decoders.base import get_decoder

    name = file.elements.source.name
    if file.transfer_syntax != _RLE:
        declared = codestream_size(codestream)
        if declared != (image.rows, image.columns, image.samples):
            raise CorruptImage("compressed frame has another size than the header says", where=name)
        if not jp2_boxes_are_whole(codestream):
            raise CorruptImage("JPEG 2000 boxes are damaged", where=name, hint="fetch it again")
    wrapped = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0" + len(codestream).to_bytes(4, "little") + codestream
    options: dict[str, Any] = {
        "rows": image.rows,
        "columns": image.columns,
        "samples_per_pixel": image.samples,
        "photometric_interpretation": image.photometric,
        "planar_configuration": image.planar,
        "bits_allocated": image.bits_allocated,
        "bits_stored": image.bits_stored,
        "pixel_representation": int(image.signed),
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
    }
    try:
        with quiet():
            stored, _ = get_decoder(file.transfer_syntax).as_array(wrapped, index=0, **options)
    except (MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the RLE decoder, written in Rust, is no Exception
        raise CorruptImage(
            f"compressed frame does not decode ({type(error).__name__})", where=name, hint="fetch it again"
        ) from None
    return np.asarray(stored)
