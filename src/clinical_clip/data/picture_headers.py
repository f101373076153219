"""What a picture declares about itself, read before anything decodes it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clinical_clip.errors import CorruptImage

__all__ = ["JpegHeader", "PngHeader", "check_tiff", "read_jpeg_header", "read_png_header", "sniff"]

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
)
_KNOWN_OTHERS = (
    (b"%PDF", "PDF"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "ZIP"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"%!PS", "PostScript"),
)


def sniff(head: bytes) -> tuple[str, bool]:
    """Kind of file by its first bytes (132 or more), and whether it is a picture that is read.

    >>> sniff(b"GIF89a..."), sniff(b"  <svg>"), sniff(b"hello")
    (('GIF', True), ('SVG or XML', False), ('', False))
    """
    if head[128:132] == b"DICM":  # its preamble may look like a TIFF (PS3.10 7.1)
        return "DICOM", False
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP", True
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind, True
    text = head.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml", b"<!doctype", b"<html", b"<!--")):
        return "SVG or XML", False
    return next((kind for magic, kind in _KNOWN_OTHERS if head.startswith(magic)), ""), False


@dataclass(frozen=True, slots=True)
class PngHeader:
    """IHDR, which chunks there are, and the bytes of eXIf (empty without one)."""

    width: int
    height: int
    bit_depth: int
    colour_type: int
    chunks: frozenset[bytes]
    exif: bytes


def read_png_header(data: bytes, where: str) -> PngHeader:
    """Walk the chunks of a PNG and check each one's CRC.

    Raises:
        CorruptImage: cut off, or a CRC that does not fit.
    """
    at, seen, view, exif = 8, set(), memoryview(data), b""
    while b"IEND" not in seen:
        if at + 12 > len(data):
            raise CorruptImage("PNG is cut off", where=where, hint="fetch it again")
        (length,) = struct.unpack_from(">L", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            raise CorruptImage("PNG is cut off", where=where, hint="fetch it again")
        if zlib.crc32(view[at + 4 : end]) != struct.unpack_from(">L", data, end)[0]:
            raise CorruptImage("PNG is damaged (CRC)", where=where, hint="fetch it again")
        kind = bytes(view[at + 4 : at + 8])
        seen.add(kind)
        if kind == b"eXIf":
            exif = bytes(view[at + 8 : end])
        at = end + 4
    if data[12:16] != b"IHDR" or struct.unpack_from(">L", data, 8)[0] != 13 or b"IDAT" not in seen:
        raise CorruptImage("PNG without header or image data", where=where, hint="fetch it again")
    width, height, bit_depth, colour_type = struct.unpack_from(">LLBB", data, 16)
    return PngHeader(width, height, bit_depth, colour_type, frozenset(seen), exif)


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """SOF, and the bytes of the first EXIF segment (empty without one)."""

    width: int
    height: int
    precision: int
    components: int
    exif: bytes


_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset(range(0xD0, 0xD8)) | {0x01, 0xFF}
_SCAN, _END, _APP1 = 0xDA, 0xD9, 0xE1


def read_jpeg_header(data: bytes, where: str) -> JpegHeader:
    """Walk the segments of a JPEG up to its first scan, and look for the end behind it.

    JPEG has no checksum: damage inside a scan cannot be told from an ugly picture.

    Raises:
        CorruptImage: cut off, or segments that make no sense.
    """
    at, size, exif = 2, (0, 0, 0, 0), b""
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker in _ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _SIZES and length >= 8 and at + 10 <= len(data):
            size = struct.unpack_from(">BHHB", data, at + 4)
        elif marker == _APP1 and data[at + 4 : at + 10] == b"Exif\0\0" and not exif:
            exif = data[at + 4 : at + 2 + length]
        elif marker == _SCAN and size[0]:
            if data.rfind(b"\xff\xd9") < at:
                raise CorruptImage("JPEG is cut off", where=where, hint="fetch it again")
            precision, height, width, components = size
            return JpegHeader(width, height, precision, components, exif)
        elif marker in (_SCAN, _END):
            break
        at += 2 + length
    raise CorruptImage("JPEG is damaged or cut off before its image", where=where, hint="fetch it again")


def check_tiff(tags: Mapping[int, Any], size: int, where: str) -> None:
    """Check that a page's strips or tiles cover it and lie within the file's ``size`` bytes.

    A decoder leaves what they do not cover black, and says nothing.

    Raises:
        CorruptImage: they do not.
    """
    width, height, planes = int(tags[256]), int(tags[257]), 1
    if tags.get(284, 1) == 2:  # PlanarConfiguration: each sample apart
        planes = int(tags.get(277, 1))
    if 324 in tags:  # tiles
        offsets, counts = tags[324], tags.get(325, ())
        needed = -(-width // int(tags[322])) * -(-height // int(tags[323])) * planes
    else:
        offsets, counts = tags.get(273, ()), tags.get(279, ())
        needed = -(-height // max(1, min(height, int(tags.get(278, height))))) * planes
    ends = [int(offset) + int(count) for offset, count in zip(offsets, counts, strict=False)]
    if len(offsets) < needed or (counts and len(counts) < needed) or max(ends, default=0) > size:
        raise CorruptImage("TIFF is cut off or damaged", where=where, hint="fetch it again")
    row_bytes = -(-width * sum(int(bits) for bits in tags.get(258, (1,))) // 8)
    if 324 not in tags and int(tags.get(259, 1)) == 1 and counts and sum(counts) < height * row_bytes:
        raise CorruptImage("TIFF has fewer bytes than its size says", where=where, hint="fetch it again")
