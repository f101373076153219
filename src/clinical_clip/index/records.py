"""From ``ImageRecord`` to the catalogue's rows and back, with a checksum on each row."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clinical_clip.errors import IndexCorrupt, InputError
from clinical_clip.types import FieldValue, ImageRecord, MediaKind, Patient

__all__ = [
    "IDENTITY_COLUMNS",
    "ITEM_COLUMNS",
    "META_COLUMNS",
    "blob_checksum",
    "format_fields",
    "from_row",
    "from_text",
    "identity_row",
    "item_row",
    "parse_fields",
    "patient_key",
    "row_checksum",
    "to_text",
]

_HINT = "run index verify to name the images; remove them and add them again"
_UNDECODED = {0xDC00 + byte: 0xF700 + byte for byte in range(0x80, 0x100)}
_NOT_IN_NAMES = {**dict.fromkeys(range(32), " "), ord('"'): "'", ord("\\"): "/"}
_UNDECODED_BACK = {to: at for at, to in _UNDECODED.items()}

ITEM_COLUMNS = (
    "slot",
    "image_id",
    "path",
    "relative_path",
    "frame",
    "kind",
    "multi",
    "study_uid",
    "series_uid",
    "sop_instance_uid",
    "patient_key",
    "fields",
    "state",
    "added_at",
    "seq",
)
"""What an item's checksum covers, in its order."""

META_COLUMNS = (
    "schema_version",
    "library_id",
    "encoder_name",
    "encoder_digest",
    "preprocessing_digest",
    "width",
    "secret",
    "created_at",
)
"""What never changes of ``meta``, and its checksum covers."""

IDENTITY_COLUMNS = ("slot", "patient_id", "issuer", "name", "birth_date", "accession_number")
"""What an identity's checksum covers, in its order."""


def item_row(record: ImageRecord, *, secret: bytes) -> dict[str, Any]:
    """The row of ``items`` for a record, without slot, time and checksum.

    Raises:
        InputError: no id, or a field that is neither text nor a finite number.
    """
    if not record.image_id:
        raise InputError("a record without an image id", where="add", hint="give it its stable id")
    return {
        "image_id": record.image_id,
        "path": to_text(str(record.path)),
        "relative_path": to_text(record.relative_path),
        "frame": record.frame,
        "kind": str(record.kind.value),
        "multi": int(record.multi),
        "study_uid": record.study_uid,
        "series_uid": record.series_uid,
        "sop_instance_uid": record.sop_instance_uid,
        "patient_key": patient_key(record.patient, secret=secret),
        "fields": {
            to_text(name).translate(_NOT_IN_NAMES): _plain(name, value)
            for name, value in sorted(record.fields.items())
        },
        "state": "ready",
    }


def _plain(name: str, value: FieldValue) -> FieldValue:
    if isinstance(value, str):
        return to_text(value).replace("\0", "")
    if isinstance(value, bool | int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise InputError(
        f"field {name!r} holds a {type(value).__name__} that cannot be filtered by",
        where="add",
        hint="fields hold text or finite numbers",
    )


def identity_row(patient: Patient) -> dict[str, Any]:
    """The row of ``identities`` for a patient, without slot and checksum."""
    return {name: to_text(getattr(patient, name)) for name in IDENTITY_COLUMNS[1:]}


def patient_key(patient: Patient | None, *, secret: bytes) -> str:
    """Keyed BLAKE2b of issuer and patient id: equal for the same patient, useless without the secret.

    >>> padded = patient_key(Patient(patient_id="7 "), secret=b"s")
    >>> patient_key(Patient(patient_id="7"), secret=b"s") == padded
    True
    >>> patient_key(None, secret=b"s"), patient_key(Patient(name="A"), secret=b"s")
    ('', '')
    """
    if patient is None or not patient.patient_id.strip():
        return ""
    text = json.dumps([patient.issuer.strip(), patient.patient_id.strip()])
    return hashlib.blake2b(text.encode("utf-8"), key=secret, digest_size=16).hexdigest()


def row_checksum(row: dict[str, Any], columns: tuple[str, ...]) -> int:
    """CRC-32 of a row's values: finds a flipped bit that still reads as valid text."""
    values = [[value.hex()] if isinstance(value := row[name], bytes) else value for name in columns]
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return zlib.crc32(text.encode("utf-8"))


def blob_checksum(slot: int, blob: object) -> int:
    """CRC-32 of a vector together with the slot that it belongs to; -1 of what is no bytes."""
    return zlib.crc32(blob, slot & 0xFFFFFFFF) if isinstance(blob, bytes) else -1


def from_row(row: Any) -> ImageRecord:
    """The record of a row of ``items``, without its patient.

    Raises:
        IndexCorrupt: a kind of media that there is not.
    """
    if row.kind not in list(MediaKind):
        raise IndexCorrupt("the row of an image is damaged", where="items", hint=_HINT)
    return ImageRecord(
        image_id=row.image_id,
        path=Path(from_text(row.path)),
        relative_path=from_text(row.relative_path),
        frame=row.frame,
        kind=MediaKind(row.kind),
        fields=MappingProxyType(row.fields),
        study_uid=row.study_uid,
        series_uid=row.series_uid,
        sop_instance_uid=row.sop_instance_uid,
        multi=bool(row.multi),
    )


def format_fields(fields: Any) -> str:
    """JSON for a catalogue's row: letters as they are, so that the database finds names by their spelling."""
    return json.dumps(fields, ensure_ascii=False, allow_nan=False)


def parse_fields(text: Any) -> Any:
    """JSON of a catalogue's row.

    Raises:
        IndexCorrupt: it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, TypeError):
        raise IndexCorrupt("the fields of an image are damaged", where="items", hint=_HINT) from None


def to_text(text: str) -> str:
    """Text that any database stores: bytes of file names that are not UTF-8 move to the private use area.

    >>> from_text(to_text("caf\\udce9")) == "caf\\udce9"
    True
    """
    return text.translate(_UNDECODED).encode("utf-8", "replace").decode("utf-8")


def from_text(text: str) -> str:
    """Undo ``to_text`` for a file name."""
    return text.translate(_UNDECODED_BACK)
