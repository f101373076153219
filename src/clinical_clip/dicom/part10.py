"""The file around a data set: preamble, file meta information, transfer syntax (PS3.10 7)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from clinical_clip.dicom.bytesource import ByteSource, inflate
from clinical_clip.dicom.elements import Elements, Encoding, scan
from clinical_clip.dicom.limits import Limits
from clinical_clip.errors import CorruptImage

__all__ = ["DEFLATED", "Part10", "open_part10"]

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
_NATIVE = {IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN}
_PREAMBLE_BYTES = 128


@dataclass(slots=True)
class Part10:
    """An open DICOM file: its transfer syntax and the elements of its data set before the pixels."""

    transfer_syntax: str
    elements: Elements

    @property
    def native(self) -> bool:
        """Pixels are stored as they are, not in fragments (PS3.5 A.4)."""
        return self.transfer_syntax in _NATIVE


def open_part10(path: Path, limits: Limits) -> Part10:
    """Open the file, with or without preamble and file meta information, whatever the preamble holds.

    Raises:
        CorruptImage: not DICOM, or damaged before its pixels.
        LimitExceeded: a cap of ``limits``.
    """
    source = ByteSource.open(path, limits)
    start = _PREAMBLE_BYTES + 4 if source.read(_PREAMBLE_BYTES, 4) == b"DICM" else 0
    syntax, start = _file_meta(source, start, limits)
    if syntax == DEFLATED:
        source, start = inflate(source, start, limits), 0
    encoding = _encoding(source, start, syntax)
    elements, _ = scan(source, start, source.size, encoding, limits)
    if not syntax:
        syntax = EXPLICIT if encoding.explicit else IMPLICIT
        syntax = syntax if encoding.little else BIG_ENDIAN
    return Part10(syntax, elements)


def _file_meta(source: ByteSource, start: int, limits: Limits) -> tuple[str, int]:
    """Transfer Syntax UID (empty where missing) and the offset of the data set."""
    at, syntax = start, ""
    for _ in range(1000):
        head = source.read(at, 12)
        if len(head) < 8 or head[:2] != b"\x02\x00":
            return syntax, at
        long = head[4:6] in (b"OB", b"UN", b"OW", b"UT", b"SQ")
        if long and len(head) < 12:
            break
        length = struct.unpack_from("<L", head, 8)[0] if long else struct.unpack_from("<H", head, 6)[0]
        value = at + (12 if long else 8)
        if value + length > source.size or length > limits.max_header_bytes:
            break
        if head[2:4] == b"\x10\x00":
            syntax = source.read(value, min(length, 256)).decode("latin-1").strip(" \0")
        at = value + length
    raise CorruptImage("file meta information is damaged", where=source.name, hint="fetch it again")


def _encoding(source: ByteSource, start: int, syntax: str) -> Encoding:
    """How the data set is written: as its first element shows, since files lie about it."""
    head = source.read(start, 8)
    if len(head) < 8:
        raise CorruptImage("no data set", where=source.name, hint="fetch the file again")
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    little = syntax != BIG_ENDIAN
    group = struct.unpack_from("<H", head)[0]
    if not syntax:
        if group in (0x0800, 0x0200):
            little = False
        elif group not in (0x0008, 0x0002, 0x0004, 0x0028):
            raise CorruptImage("not a DICOM file", where=source.name, hint="check what it is")
    return Encoding(explicit=explicit, little=little)
