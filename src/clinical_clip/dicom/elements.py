"""The elements of a data set, found without recursion and without reading their values (PS3.5 7).

pydicom reads nested sequences by recursion and inflates without bound, so that a small hostile file
can end the process. Here a data set is walked with an explicit stack of bounded depth; only the
places of the values are kept, and only the values asked for are read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from clinical_clip.dicom.bytesource import ByteSource
from clinical_clip.dicom.limits import Limits
from clinical_clip.errors import CorruptImage, LimitExceeded

__all__ = ["PIXEL_TAGS", "Element", "Elements", "Encoding", "scan"]

PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
"""Float Pixel Data, Double Float Pixel Data, Pixel Data."""
UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_PLAIN_TEXT_VRS = (b"AE", b"AS", b"CS", b"DA", b"DS", b"DT", b"IS", b"LO", b"LT", b"PN", b"SH", b"ST", b"TM")
_PLAIN_VRS = frozenset((*_PLAIN_TEXT_VRS, b"AT", b"FD", b"FL", b"SL", b"SS", b"UI", b"UL", b"US"))
_CHUNK_BYTES = 1 << 16
_MAX_ELEMENTS = 2_000_000
_TEXT_BYTES = 1 << 16


class Encoding(NamedTuple):
    """How elements are written (PS3.5 A)."""

    explicit: bool = True
    little: bool = True

    @property
    def order(self) -> str:
        """The byte order as ``struct`` and numpy write it."""
        return "<" if self.little else ">"


_UN_ENCODING = Encoding(explicit=False, little=True)
"""Inside a sequence of unknown VR (PS3.5 6.2.2)."""


class Element(NamedTuple):
    """Where a value is. ``length`` is -1 where it is undefined; ``vr`` is empty in implicit VR."""

    vr: bytes
    offset: int
    length: int


@dataclass(slots=True)
class Elements:
    """One data set or sequence item: its top elements, whose values are read when asked for."""

    source: ByteSource
    encoding: Encoding
    limits: Limits
    found: dict[int, Element] = field(default_factory=dict)
    _items: dict[int, list[Elements]] = field(default_factory=dict)

    def __contains__(self, tag: int) -> bool:
        return tag in self.found

    def raw(self, tag: int) -> bytes:
        """The value's bytes; empty where it is missing.

        Raises:
            LimitExceeded: more than ``max_header_bytes``.
        """
        element = self.found.get(tag)
        if element is None or element.length <= 0:
            return b""
        if element.length > self.limits.max_header_bytes:
            raise LimitExceeded(
                f"element ({tag >> 16:04X},{tag & 0xFFFF:04X}) has {element.length:,} bytes",
                where=self.source.name,
                hint="raise max_header_bytes",
            )
        return self.source.exactly(element.offset, element.length, "the header")

    def texts(self, tag: int) -> list[str]:
        """The values of a string element, stripped; empty where it is missing."""
        element = self.found.get(tag)
        if element is None or element.length > _TEXT_BYTES:
            return []
        text = self.raw(tag).decode("latin-1").strip(" \0")
        return [part.strip(" \0") for part in text.split("\\")] if text else []

    def text(self, tag: int) -> str:
        """The first of ``texts``, or the empty string."""
        return next(iter(self.texts(tag)), "")

    def numbers(self, tag: int, binary: str = "") -> list[float]:
        """The numbers of an element by its VR. Where the file gives none, by ``binary``: a ``struct``
        letter for a binary VR, empty for a string of decimals.

        A value that is no number is left out, and with it all that follow.
        """
        element = self.found.get(tag)
        if element is None:
            return []
        letter = _BINARY.get(element.vr, binary if element.vr in (b"", b"UN", b"OB", b"OW") else "")
        if letter:
            data = self.raw(tag)
            count = min(len(data) // struct.calcsize(letter), 1 << 20)
            return [
                float(value) for value in struct.unpack_from(f"{self.encoding.order}{count}{letter}", data)
            ]
        values = []
        for part in self.texts(tag):
            try:
                values.append(float(part))
            except ValueError:
                break
        return values

    def whole(self, tag: int, default: int | None = None, binary: str = "H") -> int | None:
        """The first of ``numbers`` as an int; ``default`` where there is none or it is not whole."""
        first = next(iter(self.numbers(tag, binary)), None)
        return int(first) if first is not None and first.is_integer() else default

    def items(self, tag: int) -> list[Elements]:
        """The items of a sequence; empty where it is missing."""
        if tag not in self._items:
            element = self.found.get(tag)
            self._items[tag] = [] if element is None else self._split(element)
        return self._items[tag]

    def _split(self, element: Element) -> list[Elements]:
        end = element.offset + element.length if element.length >= 0 else self.source.size
        encoding = _UN_ENCODING if element.vr == b"UN" else self.encoding
        items: list[Elements] = []
        at = element.offset
        header = struct.Struct(f"{encoding.order}HHL")
        while at + 8 <= end:
            group, number, length = header.unpack(self.source.exactly(at, 8, "a sequence"))
            if (group << 16 | number) != _ITEM or len(items) > self.limits.max_frames:
                break
            stop = end if length == UNDEFINED else min(end, at + 8 + length)
            item, at = scan(self.source, at + 8, stop, encoding, self.limits)
            if length != UNDEFINED:
                at = stop
            items.append(item)
        return items


_BINARY = {b"US": "H", b"SS": "h", b"UL": "L", b"SL": "l", b"FL": "f", b"FD": "d", b"UV": "Q", b"SV": "q"}


@dataclass(slots=True)
class _Open:
    """A sequence or item that the walk is inside of. ``end`` is None where a delimiter ends it."""

    end: int | None
    encoding: Encoding
    tag: int = 0
    element: Element | None = None
    is_sequence: bool = False


def scan(
    source: ByteSource, start: int, end: int, encoding: Encoding, limits: Limits
) -> tuple[Elements, int]:
    """Walk the data set in ``[start, end)`` up to its pixel data, or to the delimiter of the item it is.

    Returns:
        its elements and the offset behind the last that was walked.

    Raises:
        LimitExceeded: sequences nested deeper than ``max_nesting``, or absurdly many elements.
        CorruptImage: lengths and delimiters that do not fit together.
    """
    return _Walk(source, start, end, encoding, limits).run()


class _Walk:
    def __init__(self, source: ByteSource, start: int, end: int, encoding: Encoding, limits: Limits) -> None:
        self.source, self.at, self.end, self.limits = source, start, end, limits
        self.elements = Elements(source, encoding, limits)
        self.open: list[_Open] = []
        self.depth = 0
        self._chunk = b""
        self._base = 0

    def run(self) -> tuple[Elements, int]:
        found = self.elements.found
        for _ in range(_MAX_ELEMENTS):
            if not self.open:
                self._plain()
            self._close_ended()
            inside = self.open[-1] if self.open else None
            encoding = inside.encoding if inside else self.elements.encoding
            stop = inside.end if inside and inside.end is not None else self.end
            if self.at + 8 > stop:
                if not self.open:
                    return self.elements, self.end
                self._recover()
                continue
            tag, vr, offset, length = self._header(encoding, stop)
            if tag >> 16 == 0xFFFE:
                if self._delimiter(tag, offset, length):
                    return self.elements, self.at
                continue
            if tag in PIXEL_TAGS and not self.open:
                found[tag] = Element(vr, offset, -1 if length == UNDEFINED else length)
                return self.elements, offset
            self._element(tag, Element(vr, offset, length), encoding, stop)
        raise LimitExceeded("more elements than allowed", where=self.source.name, hint="check the file")

    def _plain(self) -> None:
        """Take the top elements that need no care, as far as the chunk goes. The rest is for ``run``."""
        found, end = self.elements.found, self.end
        encoding, chunk, base = self.elements.encoding, self._chunk, self._base
        at, last = self.at - base, len(chunk) - 12
        unpack_long = struct.Struct(f"{encoding.order}HHL").unpack_from
        unpack = struct.Struct(f"{encoding.order}HH2sH").unpack_from
        item = struct.pack(f"{encoding.order}HH", 0xFFFE, 0xE000)
        while 0 <= at <= last:
            vr, value = b"", at + 8
            if encoding.explicit:
                group, number, vr, length = unpack(chunk, at)
                if vr not in _PLAIN_VRS:
                    break
            else:
                group, number, length = unpack_long(chunk, at)
                if length >= 8 and chunk[value : value + 4] == item:
                    break
            if group >= 0x7FE0 or base + value + length > end or value + 4 > len(chunk):
                break
            found[group << 16 | number] = Element(vr, base + value, length)
            at = value + length
        self.at = base + at

    def _header(self, encoding: Encoding, stop: int) -> tuple[int, bytes, int, int]:
        """Tag, VR, offset of the value and length of the element at ``at``."""
        relative = self.at - self._base
        if relative < 0 or relative + 12 > len(self._chunk):
            self._chunk, self._base, relative = self.source.read(self.at, _CHUNK_BYTES), self.at, 0
        data = self._chunk[relative : relative + 12]
        group, number, length = struct.unpack_from(f"{encoding.order}HHL", data)
        tag = group << 16 | number
        if not encoding.explicit or group == 0xFFFE:
            return tag, b"", self.at + 8, length
        vr = data[4:6]
        if not (vr.isalpha() and vr.isupper()):  # an implicit element among explicit ones
            return tag, b"", self.at + 8, length
        if vr not in _LONG_VRS:
            return tag, vr, self.at + 8, struct.unpack_from(f"{encoding.order}H", data, 6)[0]
        if self.at + 12 > stop or len(data) < 12:
            return tag, vr, self.at + 12, stop
        return tag, vr, self.at + 12, struct.unpack_from(f"{encoding.order}L", data, 8)[0]

    def _element(self, tag: int, element: Element, encoding: Encoding, stop: int) -> None:
        vr, offset, length = element
        if length == UNDEFINED:
            inner = _UN_ENCODING if vr == b"UN" else encoding
            self._push(_Open(None, inner, tag, Element(vr, offset, -1), is_sequence=True))
            self.at = offset
            return
        if offset + length > stop:
            self._recover()
            return
        if not self.open:
            self.elements.found[tag] = element
        if length >= 8 and (vr == b"SQ" or (vr in (b"", b"UN") and self._starts_with_item(offset, encoding))):
            inner = _UN_ENCODING if vr == b"UN" else encoding
            self._push(_Open(offset + length, inner, tag, is_sequence=True))
            self.at = offset
        else:
            self.at = offset + length

    def _starts_with_item(self, offset: int, encoding: Encoding) -> bool:
        return self.source.read(offset, 4) == struct.pack(f"{encoding.order}HH", 0xFFFE, 0xE000)

    def _delimiter(self, tag: int, offset: int, length: int) -> bool:
        """Item, or end of an item or sequence. True where it ends the data set that is walked."""
        inside = self.open[-1] if self.open else None
        if tag == _ITEM and inside and inside.is_sequence:
            end = None if length == UNDEFINED else offset + length
            if end is not None and inside.end is not None and end > inside.end:
                self._recover()
                return False
            if end is not None and end > self.end:
                self._recover()
                return False
            self.open.append(_Open(end, inside.encoding))
            self.at = offset
        elif inside is None:
            self.at = offset
            return True
        elif tag == _ITEM_END and not inside.is_sequence:
            self.open.pop()
            self.at = offset if inside.end is None else inside.end
        elif tag == _SEQUENCE_END and inside.is_sequence:
            self._close(offset)
        else:
            self._recover()
        return False

    def _push(self, inner: _Open) -> None:
        self.depth += 1
        if self.depth > self.limits.max_nesting:
            raise LimitExceeded(
                f"sequences nested deeper than {self.limits.max_nesting}",
                where=self.source.name,
                hint="raise max_nesting if the file is trusted",
            )
        self.open.append(inner)

    def _close_ended(self) -> None:
        while self.open and self.open[-1].end is not None and self.at >= self.open[-1].end:
            inside = self.open.pop()
            self.depth -= inside.is_sequence

    def _close(self, at: int) -> None:
        """Leave the sequence that is innermost; a top one of undefined length gets its length."""
        inside = self.open.pop()
        self.depth -= 1
        if not self.open and inside.element is not None:
            vr, offset, _ = inside.element
            self.elements.found[inside.tag] = Element(vr, offset, self.at - offset)
        self.at = at if inside.end is None else inside.end

    def _recover(self) -> None:
        """Skip to the end of the innermost sequence that has a length; its inside is nonsense."""
        while self.open:
            inside = self.open.pop()
            self.depth -= inside.is_sequence
            if inside.is_sequence and inside.end is not None:
                self.at = inside.end
                return
        raise CorruptImage("file ends within its header", where=self.source.name, hint="fetch it again")
