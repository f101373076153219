"""Palette colour (PS3.3 C.7.6.3.1.5, C.7.6.3.1.6) and segmented palettes (C.7.9.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clinical_clip.dicom.elements import Elements
from clinical_clip.errors import CorruptImage

__all__ = ["expand_segments", "read_palette"]

_MAX_ENTRIES = 1 << 16


def read_palette(elements: Elements, *, signed: bool) -> tuple[int, NDArray[np.uint8]]:
    """The first stored value mapped, and the palette as (N, 3) RGB.

    Entries of 16 bits keep their upper eight. Values below the first take the first entry, values past
    the end take the last.

    Raises:
        CorruptImage: a descriptor or data missing, or shorter than they say.
    """
    first, channels = 0, []
    for number in range(3):
        count, first, bits = _descriptor(elements, 0x00281101 + number, signed=signed)
        channels.append(_channel(elements, number, count, bits))
    if len({len(channel) for channel in channels}) != 1:
        raise _damaged(elements)
    return first, np.stack(channels, axis=1)


def _damaged(elements: Elements) -> CorruptImage:
    return CorruptImage("palette is missing or damaged", where=elements.source.name, hint="fetch it again")


def _descriptor(elements: Elements, tag: int, *, signed: bool) -> tuple[int, int, int]:
    values = elements.numbers(tag, "H")
    if len(values) < 3 or values[2] not in (8, 16):
        raise _damaged(elements)
    first = int(values[1])
    if signed and first >= 1 << 15:
        first -= 1 << 16
    return int(values[0]) & 0xFFFF or _MAX_ENTRIES, first, int(values[2])


def _channel(elements: Elements, number: int, count: int, bits: int) -> NDArray[np.uint8]:
    data, order = elements.raw(0x00281201 + number), elements.encoding.order
    if data:
        if bits == 16 or len(data) >= 2 * count:
            entries = np.frombuffer(data, f"{order}u2", min(count, len(data) // 2)).astype(np.uint16)
        else:
            if order == ">":  # bytes stand in words, and words are swapped
                data = np.frombuffer(data[: len(data) & ~1], ">u2").astype("<u2").tobytes()
            entries = np.frombuffer(data, np.uint8, min(count, len(data))).astype(np.uint16)
    else:
        words = (
            np.frombuffer(
                elements.raw(0x00281221 + number)[: 4 * _MAX_ENTRIES],
                f"{order}u2" if bits == 16 else np.uint8,
            )
            if bits == 8 or len(elements.raw(0x00281221 + number)) % 2 == 0
            else np.empty(0, np.uint8)
        )
        try:
            entries = expand_segments([int(word) for word in words], bits, order=order)
        except (IndexError, ValueError):
            raise _damaged(elements) from None
    if len(entries) < count:
        raise _damaged(elements)
    entries = entries[:count]
    wide = bits == 16 or (entries.size > 0 and int(entries.max()) > 255)
    return (entries >> 8 if wide else entries).astype(np.uint8)


def expand_segments(words: list[int], bits: int, *, order: str = "<") -> NDArray[np.uint16]:
    """A segmented palette's entries (PS3.3 C.7.9.2): discrete, linear and indirect segments.

    Raises:
        ValueError, IndexError: the segments make no sense.

    >>> expand_segments([0, 2, 10, 20, 1, 2, 40], 8).tolist()
    [10, 20, 30, 40]
    """
    entries: list[int] = []
    at, back, left = 0, -1, 0
    for _ in range(_MAX_ENTRIES):
        if back >= 0 and left == 0:  # the segments that were pointed to are through
            at, back = back, -1
        if at + 1 >= len(words):
            break
        kind, length = words[at], words[at + 1]
        at += 2
        left -= back >= 0
        if kind == 0:
            entries += words[at : at + length]
            at += length
        elif kind == 1 and entries:
            entries += _line(entries[-1], words[at], length)
            at += 1
        elif kind == 2 and entries and back < 0:
            width = 2 if bits == 16 else 4
            offset = _offset(words[at : at + width], bits, order)
            back, left, at = at + width, length, offset
        else:
            raise ValueError("segments make no sense")
        if len(entries) > _MAX_ENTRIES:
            raise ValueError("more entries than a palette can have")
    return np.asarray(entries, np.uint16)


def _line(start: int, stop: int, length: int) -> list[int]:
    if start == stop or length == 0:
        return [stop] * length
    step = (stop - start) / length
    return [int(value) for value in np.around(np.linspace(start + step, stop, length))]


def _offset(words: list[int], bits: int, order: str) -> int:
    """Where an indirect segment points, in words: least significant part first."""
    if bits == 16:
        return words[1] << 16 | words[0]
    high, low = (words[3] << 8 | words[2], words[1] << 8 | words[0])
    if order == ">":
        high, low = (words[2] << 8 | words[3], words[0] << 8 | words[1])
    return high << 16 | low
