"""The header of a DICOM file: what it is, where it belongs, what may be shown. Never its pixels."""

from __future__ import annotations

import zlib
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.uid import UID

from clinical_clip.dicom.header import HEADER_TAGS, DicomHeader, make_header
from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.dicom.quiet import quiet
from clinical_clip.dicom.values import numbers_of, values_of
from clinical_clip.errors import CorruptImage, ImageRejected, LimitExceeded

__all__ = ["DicomHeader", "looks_like_dicom", "read_frame_positions", "read_header"]

_DEFLATED = "1.2.840.10008.1.2.1.99"
_FIRST_BYTES = 1 << 16
_LAST_FIRST_ELEMENT = 0x0120
_LONG_LENGTH_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_PIXEL_TAGS = {0x7FE00008, 0x7FE00009, 0x7FE00010}

_SHARED_GROUPS, _PER_FRAME_GROUPS = 0x52009229, 0x52009230


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file that starts with ``head`` (132 bytes or more) is DICOM, with or without a preamble.

    Without the preamble (PS3.10 7.1) the first element has to be of group 0002 or 0008 and plausible.

    >>> looks_like_dicom(bytes(128) + b"DICM"), looks_like_dicom(b"GIF89a" + bytes(200))
    (True, False)
    """
    if head[128:132] == b"DICM":
        return True
    explicit = len(head) >= 16 and head[4:6].isalpha() and head[4:6].isupper()
    if explicit and head[:2] in (b"\0\x02", b"\0\x08"):
        return int.from_bytes(head[2:4], "big") <= _LAST_FIRST_ELEMENT
    if len(head) < 16 or head[:2] not in (b"\x02\0", b"\x08\0"):
        return False
    plausible = int.from_bytes(head[4:8], "little") <= 1024
    return int.from_bytes(head[2:4], "little") <= _LAST_FIRST_ELEMENT and (explicit or plausible)


def read_header(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> DicomHeader:
    """Read the header of the DICOM file at ``path`` up to its pixel data, in bounded memory.

    The preamble is skipped, whatever it holds (PS3.10 7.5). Text is decoded by Specific Character Set.

    Raises:
        CorruptImage: the bytes are not a DICOM data set.
        LimitExceeded: the header, its nesting or its inflated size is past ``limits``.
    """
    with path.open("rb") as file:
        head = file.read(_FIRST_BYTES)
        complete = len(head) < _FIRST_BYTES
        header = _try_parse(head, complete, limits, path.name)
        if header is not None:
            return header
        head += file.read(limits.max_header_bytes + 1 - len(head))
    complete = len(head) <= limits.max_header_bytes
    header = _try_parse(head, complete, limits, path.name)
    if header is None:
        raise LimitExceeded(
            f"more than {limits.max_header_bytes:,} bytes before the pixel data",
            where=path.name,
            hint="raise max_header_bytes",
        )
    return header


def _try_parse(head: bytes, complete: bool, limits: Limits, where: str) -> DicomHeader | None:
    """The header in ``head``; None where ``head`` is a part of the file and ends before the pixel data."""
    try:
        with quiet():
            dataset, has_pixels = _parse(head, limits)
            if not (complete or has_pixels):
                return None
            return make_header(dataset, has_pixels, limits)
    except RecursionError:
        raise LimitExceeded(
            "sequences nested too deeply", where=where, hint="have the file checked by whoever wrote it"
        ) from None
    except LimitExceeded as error:
        raise LimitExceeded(error.what, where=where, hint=error.hint) from None
    except Exception as error:
        if not complete and not isinstance(error, ImageRejected):
            return None
        what = error.what if isinstance(error, ImageRejected) else f"not DICOM ({type(error).__name__})"
        raise CorruptImage(what, where=where, hint="fetch the file again") from None


def _parse(head: bytes, limits: Limits, tags: tuple[int, ...] = HEADER_TAGS) -> tuple[Dataset, bool]:
    """The data set of ``tags``, and whether pixel data follow."""
    reached = False

    def at_pixels(tag: int, _vr: str | None, _length: int) -> bool:
        nonlocal reached
        plain = tag.real  # comparisons of pydicom's tags are ten times slower
        if plain < 0x7FE00008:
            return False
        reached = plain in _PIXEL_TAGS
        return True

    syntax, start = _file_meta(head)
    data, cut_off = head, False
    if syntax == _DEFLATED:
        inflated, cut_off = _inflate(head[start:], limits)
        data = head[:start].replace(_DEFLATED.encode(), b"1.2.840.10008.1.2.1\0\0\0") + inflated
    elif _DEFLATED.encode() in head[: 1 << 12]:
        raise CorruptImage("file meta information that cannot be read")
    dataset = read_partial(BytesIO(data), stop_when=at_pixels, force=True, specific_tags=list(tags))
    if syntax:
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
    if cut_off and not reached:
        raise LimitExceeded(
            "inflates to more than allowed before its pixel data", hint="raise max_inflated_bytes"
        )
    return dataset, reached


def _file_meta(head: bytes) -> tuple[str, int]:
    """Transfer syntax and end of the file meta information (PS3.10 7.1: explicit VR little endian)."""
    at = 132 if head[128:132] == b"DICM" else 0
    syntax = ""
    while head[at : at + 2] == b"\x02\x00":
        long = head[at + 4 : at + 6] in _LONG_LENGTH_VRS
        size, begin = (head[at + 8 : at + 12], at + 12) if long else (head[at + 6 : at + 8], at + 8)
        end = begin + int.from_bytes(size, "little")
        if head[at + 2 : at + 4] == b"\x10\x00":
            syntax = head[begin:end].rstrip(b"\0 ").decode("ascii", "replace")
        at = end
    return syntax, at


def _inflate(deflated: bytes, limits: Limits) -> tuple[bytes, bool]:
    """The first ``max_header_bytes`` of a deflated data set (PS3.5 A.5), and whether there is more."""
    cap = min(limits.max_header_bytes, limits.max_inflated_bytes)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(deflated, cap)
    return inflated, bool(inflater.unconsumed_tail)


def read_frame_positions(
    path: Path, *, limits: Limits = DEFAULT_LIMITS
) -> list[tuple[tuple[float, ...] | None, tuple[float, ...] | None]]:
    """Position and orientation of each frame of an enhanced multi-frame object (PS3.3 C.7.6.16.2.3, .4).

    Empty where the object has no Per-Frame Functional Groups Sequence or it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(limits.max_header_bytes)
    try:
        with quiet():
            dataset, _ = _parse(head, limits, (_SHARED_GROUPS, _PER_FRAME_GROUPS))
            shared = next(iter(values_of(dataset, "SharedFunctionalGroupsSequence")), Dataset())
            common = _plane(shared, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
            return [
                (
                    _plane(groups, "PlanePositionSequence", "ImagePositionPatient", 3),
                    _plane(groups, "PlaneOrientationSequence", "ImageOrientationPatient", 6) or common,
                )
                for groups in values_of(dataset, "PerFrameFunctionalGroupsSequence")
            ]
    except Exception:
        return []


def _plane(groups: Dataset, sequence: str, keyword: str, n: int) -> tuple[float, ...] | None:
    items = values_of(groups, sequence)
    return numbers_of(items[0], keyword, n) if items else None
