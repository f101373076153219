"""The header of a DICOM file: what it is, where it belongs, what may be shown. Never its pixels."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.uid import UID

from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.dicom.quiet import quiet
from clinical_clip.errors import CorruptImage, ImageRejected, LimitExceeded
from clinical_clip.types import FieldValue, Patient

__all__ = ["DicomHeader", "looks_like_dicom", "read_frame_positions", "read_header", "valid_uid"]

_DEFLATED = "1.2.840.10008.1.2.1.99"
_FIRST_BYTES = 1 << 16
_LAST_FIRST_ELEMENT = 0x0120
_MAX_TEXT = 1024
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_LONG_LENGTH_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_PIXEL_TAGS = {0x7FE00008, 0x7FE00009, 0x7FE00010}

_TAGS: list[int] = [
    0x00080008,  # Image Type
    0x00080016,  # SOP Class UID
    0x00080018,  # SOP Instance UID
    0x00080020,  # Study Date
    0x00080050,  # Accession Number
    0x00080060,  # Modality
    0x00080068,  # Presentation Intent Type
    0x00080070,  # Manufacturer
    0x00081030,  # Study Description
    0x0008103E,  # Series Description
    0x00082218,  # Anatomic Region Sequence
    0x00100010,  # Patient's Name
    0x00100020,  # Patient ID
    0x00100021,  # Issuer of Patient ID
    0x00100030,  # Patient's Birth Date
    0x00180015,  # Body Part Examined
    0x00185101,  # View Position
    0x0020000D,  # Study Instance UID
    0x0020000E,  # Series Instance UID
    0x00200013,  # Instance Number
    0x00200032,  # Image Position (Patient)
    0x00200037,  # Image Orientation (Patient)
    0x00200060,  # Laterality
    0x00200062,  # Image Laterality
    0x00280008,  # Number of Frames
    0x00280010,  # Rows
    0x00280011,  # Columns
    0x00280301,  # Burned In Annotation
    0x00540220,  # View Code Sequence
]
_SHARED_GROUPS, _PER_FRAME_GROUPS = 0x52009229, 0x52009230


@dataclass(frozen=True, kw_only=True, slots=True)
class DicomHeader:
    """What indexing needs of one DICOM file.

    Attributes:
        sop_class_uid, sop_instance_uid, series_uid, study_uid: as in the file, empty where missing
            or not a UID by PS3.5 9.1 (digits and dots, at most 64 characters).
        transfer_syntax_uid: of the file meta information (PS3.10 7.1), empty without one.
        image_type: values of (0008,0008) in capitals.
        n_frames: Number of Frames, at least 1.
        rows, columns: size of a frame, 0 where missing.
        has_pixels: a pixel data element follows the header.
        instance_number: (0020,0013), or None.
        position: Image Position (Patient), mm, or None.
        orientation: Image Orientation (Patient), six cosines, or None.
        fields: what may be shown and filtered by. Study and series descriptions are free text that
            somebody typed: they are shown, and may hold what a careless hand put there.
        patient: what identifies the patient.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    transfer_syntax_uid: str
    image_type: tuple[str, ...]
    presentation_intent: str
    burned_in: bool
    n_frames: int
    rows: int
    columns: int
    has_pixels: bool
    instance_number: int | None
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    fields: Mapping[str, FieldValue]
    patient: Patient


def valid_uid(text: str) -> bool:
    """Whether ``text`` is a UID: components of digits joined by dots, at most 64 characters (PS3.5 9.1).

    Leading zeros of a component are let pass: archives are full of them and they do no harm.

    >>> valid_uid("1.2.840.10008.1.1"), valid_uid("../../x"), valid_uid("1." * 40), valid_uid("")
    (True, False, False, False)
    """
    return len(text) <= 64 and _UID.fullmatch(text) is not None


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
            return _header(dataset, has_pixels, limits)
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


def _parse(head: bytes, limits: Limits, tags: list[int] = _TAGS) -> tuple[Dataset, bool]:
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


def _header(dataset: Dataset, has_pixels: bool, limits: Limits) -> DicomHeader:
    rows, columns = _whole(dataset, "Rows") or 0, _whole(dataset, "Columns") or 0
    n_frames = max(1, _whole(dataset, "NumberOfFrames") or 1)
    if rows * columns > limits.max_pixels:
        raise LimitExceeded(f"{rows} x {columns} pixels in a frame", hint="raise max_pixels")
    if n_frames > limits.max_frames:
        raise LimitExceeded(f"{n_frames:,} frames", hint="raise max_frames")
    meta = getattr(dataset, "file_meta", None) or Dataset()
    sop_class_uid = _uid(dataset, "SOPClassUID") or _uid(meta, "MediaStorageSOPClassUID")
    if not sop_class_uid and not (rows and columns):
        raise CorruptImage("neither a SOP class nor an image size")
    return DicomHeader(
        sop_class_uid=sop_class_uid,
        sop_instance_uid=_uid(dataset, "SOPInstanceUID"),
        series_uid=_uid(dataset, "SeriesInstanceUID"),
        study_uid=_uid(dataset, "StudyInstanceUID"),
        transfer_syntax_uid=_text(meta, "TransferSyntaxUID"),
        image_type=tuple(value.upper() for value in _texts(dataset, "ImageType")),
        presentation_intent=_text(dataset, "PresentationIntentType").upper(),
        burned_in=_text(dataset, "BurnedInAnnotation").upper() == "YES",
        n_frames=n_frames,
        rows=rows,
        columns=columns,
        has_pixels=has_pixels,
        instance_number=_whole(dataset, "InstanceNumber"),
        position=_numbers(dataset, "ImagePositionPatient", 3),
        orientation=_numbers(dataset, "ImageOrientationPatient", 6),
        fields=_fields(dataset, sop_class_uid, rows, columns),
        patient=Patient(
            patient_id=_text(dataset, "PatientID"),
            issuer=_text(dataset, "IssuerOfPatientID"),
            name=_text(dataset, "PatientName"),
            birth_date=_text(dataset, "PatientBirthDate"),
            accession_number=_text(dataset, "AccessionNumber"),
        ),
    )


def _fields(dataset: Dataset, sop_class_uid: str, rows: int, columns: int) -> dict[str, FieldValue]:
    fields: dict[str, FieldValue] = {
        "modality": _text(dataset, "Modality").upper(),
        "body_part": _text(dataset, "BodyPartExamined").upper() or _code(dataset, "AnatomicRegionSequence"),
        "laterality": (_text(dataset, "ImageLaterality") or _text(dataset, "Laterality")).upper(),
        "view": _text(dataset, "ViewPosition").upper() or _code(dataset, "ViewCodeSequence"),
        "manufacturer": _text(dataset, "Manufacturer"),
        "study_description": _text(dataset, "StudyDescription"),
        "series_description": _text(dataset, "SeriesDescription"),
        "sop_class": sop_class_uid,
        "rows": rows,
        "columns": columns,
    }
    try:
        day = datetime.strptime(_text(dataset, "StudyDate")[:8], "%Y%m%d").date()
        fields |= {"study_date": day.isoformat(), "year": day.year}
    except ValueError:
        pass
    number = _whole(dataset, "InstanceNumber")
    if number is not None:
        fields["instance_number"] = number
    return {
        name: value for name, value in fields.items() if value not in ("", 0) or name == "instance_number"
    }


def _values(dataset: Dataset, keyword: str) -> list[Any]:
    """The values of an element, without its empty ones; none where it is missing or cannot be decoded."""
    try:
        value = dataset.get(keyword)
    except RecursionError:
        raise
    except Exception:
        return []
    if value is None:
        return []
    several = not isinstance(value, str | bytes) and hasattr(value, "__iter__") and keyword != "PatientName"
    return [one for one in (value if several else [value]) if one is not None]


def _texts(dataset: Dataset, keyword: str) -> list[str]:
    cleaned = (_UNPRINTABLE.sub(" ", str(one)[:_MAX_TEXT]).strip() for one in _values(dataset, keyword))
    return [text.encode("utf-8", "replace").decode() for text in cleaned if text]


def _text(dataset: Dataset, keyword: str) -> str:
    return next(iter(_texts(dataset, keyword)), "")


def _uid(dataset: Dataset, keyword: str) -> str:
    text = _text(dataset, keyword)
    return text if valid_uid(text) else ""


def _whole(dataset: Dataset, keyword: str) -> int | None:
    try:
        return int(_values(dataset, keyword)[0])
    except (IndexError, TypeError, ValueError, OverflowError):
        return None


def _numbers(dataset: Dataset, keyword: str, n: int) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(one) for one in _values(dataset, keyword))
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if len(numbers) == n and all(map(math.isfinite, numbers)) else None


def _code(dataset: Dataset, keyword: str) -> str:
    """The Code Meaning of a code sequence's first item (PS3.3 8.8)."""
    items = _values(dataset, keyword)
    return _text(items[0], "CodeMeaning") if items and isinstance(items[0], Dataset) else ""


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
            dataset, _ = _parse(head, limits, [_SHARED_GROUPS, _PER_FRAME_GROUPS])
            shared = next(iter(_values(dataset, "SharedFunctionalGroupsSequence")), Dataset())
            common = _plane(shared, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
            return [
                (
                    _plane(groups, "PlanePositionSequence", "ImagePositionPatient", 3),
                    _plane(groups, "PlaneOrientationSequence", "ImageOrientationPatient", 6) or common,
                )
                for groups in _values(dataset, "PerFrameFunctionalGroupsSequence")
            ]
    except Exception:
        return []


def _plane(groups: Dataset, sequence: str, keyword: str, n: int) -> tuple[float, ...] | None:
    items = _values(groups, sequence)
    return _numbers(items[0], keyword, n) if items else None
