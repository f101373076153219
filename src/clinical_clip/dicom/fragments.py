"""Frames of encapsulated pixel data (PS3.5 A.4), one at a time and within the file's bounds."""

from __future__ import annotations

import struct

from clinical_clip.dicom.elements import Elements
from clinical_clip.dicom.image import ImagePixel
from clinical_clip.errors import CorruptImage, LimitExceeded

__all__ = ["codestream_size", "frame_bytes", "jp2_boxes_are_whole"]

_ITEM, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD
_MAX_FRAGMENTS = 131_072
_EXTENDED_OFFSETS, _EXTENDED_LENGTHS = 0x7FE00001, 0x7FE00002
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_JPEG_ALONE = frozenset(range(0xD0, 0xDA)) | {0x01}
_J2K_START = b"\xff\x4f\xff\x51"

Fragment = tuple[int, int]
"""Offset and length of a fragment's bytes."""


def frame_bytes(elements: Elements, image: ImagePixel, frame: int) -> bytes:
    """The codestream of one frame: by extended or basic offset table, else by counting fragments.

    Raises:
        CorruptImage: the frame is not there or its fragments run past the end.
        LimitExceeded: absurdly many fragments.
    """
    name = elements.source.name
    if image.pixels.length != -1:
        raise CorruptImage("compressed pixel data are not in fragments", where=name, hint="fetch it again")
    table, first = _offset_table(elements, image)
    extended = elements.raw(_EXTENDED_OFFSETS), elements.raw(_EXTENDED_LENGTHS)
    if len(extended[0]) >= 8 * image.n_frames and len(extended[1]) >= 8 * image.n_frames:
        (offset,) = struct.unpack_from("<Q", extended[0], 8 * frame)
        (length,) = struct.unpack_from("<Q", extended[1], 8 * frame)
        return elements.source.exactly(first + offset + 8, length, "its pixel data")
    if table:
        if frame >= len(table):
            raise _missing(name, frame)
        stop = first + table[frame + 1] if frame + 1 < len(table) else elements.source.size
        fragments = _fragments(elements, first + table[frame], stop)
    else:
        fragments = _counted(elements, image, frame, _fragments(elements, first, elements.source.size))
    if not fragments:
        raise _missing(name, frame)
    return b"".join(elements.source.exactly(*fragment, "its pixel data") for fragment in fragments)


def _missing(name: str, frame: int) -> CorruptImage:
    return CorruptImage(f"frame {frame} is not in the pixel data", where=name, hint="fetch it again")


def _offset_table(elements: Elements, image: ImagePixel) -> tuple[tuple[int, ...], int]:
    """The basic offset table (may be empty) and the offset of the first fragment's item."""
    source, at = elements.source, image.pixels.offset
    tag, length = _item(source.exactly(at, 8, "its pixel data"))
    if tag != _ITEM:
        raise CorruptImage("compressed pixel data are not in fragments", where=source.name)
    if length > 4 * elements.limits.max_frames:
        raise LimitExceeded("basic offset table is too long", where=source.name, hint="raise max_frames")
    data = source.exactly(at + 8, length, "its offset table")
    return struct.unpack_from(f"<{length // 4}L", data), at + 8 + length


def _item(header: bytes) -> tuple[int, int]:
    group, number, length = struct.unpack("<HHL", header)
    return group << 16 | number, length


def _fragments(elements: Elements, at: int, stop: int) -> list[Fragment]:
    """The fragments from ``at`` on, to ``stop`` or the sequence delimiter (or the end of the file)."""
    source, found = elements.source, []
    while at + 8 <= min(stop, source.size):
        tag, length = _item(source.read(at, 8))
        if tag == _SEQUENCE_END:
            break
        if tag != _ITEM or at + 8 + length > source.size:
            raise CorruptImage("file ends within its pixel data", where=source.name, hint="fetch it again")
        found.append((at + 8, length))
        if len(found) > _MAX_FRAGMENTS:
            raise LimitExceeded("more fragments than allowed", where=source.name, hint="check the file")
        at += 8 + length
    return found


def _counted(elements: Elements, image: ImagePixel, frame: int, fragments: list[Fragment]) -> list[Fragment]:
    """The fragments of ``frame`` where no table says which (PS3.5 A.4: as pydicom decides)."""
    if image.n_frames == 1:
        return fragments if frame == 0 else []
    if len(fragments) <= image.n_frames:
        return fragments[frame : frame + 1]
    number, mine = 0, []
    for offset, length in fragments:
        mine.append((offset, length))
        tail = elements.source.read(offset + max(0, length - 10), min(length, 10))
        if b"\xff\xd9" in tail:  # end of image: JPEG's EOI, JPEG 2000's EOC
            if number == frame:
                return mine
            number, mine = number + 1, []
    return mine if number == frame else []


def codestream_size(data: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components that a JPEG, JPEG-LS or JPEG 2000 codestream declares.

    None where ``data`` is none of these, or damaged before it says.

    >>> codestream_size(bytes.fromhex("ffd8 ffc0 0011 08 0010 0020 03 012200 021101 031101"))
    (16, 32, 3)
    """
    start = data.find(_J2K_START, 0, 1 << 16)
    if start >= 0:
        if len(data) < start + 42:
            return None
        width, height, left, top = struct.unpack_from(">4L", data, start + 8)
        (components,) = struct.unpack_from(">H", data, start + 40)
        return height - top, width - left, components
    return _jpeg_size(data) if data[:2] == b"\xff\xd8" else None


def jp2_boxes_are_whole(data: bytes) -> bool:
    """Whether the boxes of a JP2 file, where ``data`` is one, lead to a codestream (ISO 15444-1 I.4).

    DICOM wants the codestream alone (PS3.5 A.4.4), but files with boxes exist, and pydicom walks them; a
    box of length 0 would keep it walking for ever.
    """
    if data[4:8] != b"jP  ":
        return True
    at = 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"jp2c":
            return True
        if length < 8:
            return False
        at += length
    return False


def _jpeg_size(data: bytes) -> tuple[int, int, int] | None:
    at = 2
    while at + 10 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _JPEG_ALONE:
            at += 2
        elif marker in _JPEG_SIZES:
            rows, columns, components = struct.unpack_from(">HHB", data, at + 5)
            return rows, columns, components
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
