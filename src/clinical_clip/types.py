"""The few frozen dataclasses that travel from readers to results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from clinical_clip.errors import ImageRejected

__all__ = ["FieldValue", "Hit", "ImageRecord", "MediaKind", "Patient", "Rejection"]

FieldValue = str | int | float
"""A value that may be shown and filtered by."""

_NO_FIELDS: Mapping[str, FieldValue] = MappingProxyType({})


class MediaKind(StrEnum):
    """How a record's pixels are read."""

    DICOM = "dicom"
    PICTURE = "picture"
    NIFTI = "nifti"


@dataclass(frozen=True, kw_only=True, slots=True)
class Patient:
    """What identifies a patient (PS3.3 C.7.1.1). Kept apart from what is shown.

    Its ``repr`` shows nothing, so that a log line or a traceback cannot leak it.
    """

    patient_id: str = ""
    issuer: str = ""
    name: str = ""
    birth_date: str = ""
    accession_number: str = ""

    def __repr__(self) -> str:
        return "Patient(...)"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """One image of a source: where its pixels are, its stable identity, what may be shown.

    Attributes:
        image_id: stable id: ``<SOP Instance UID>#<frame>`` for DICOM, ``sha256:<64 hex>#<frame>``
            of the file's bytes otherwise. Frames count from 0. Never a position in a list.
        path: the file that holds the pixels.
        relative_path: the same, POSIX style, relative to the source's root.
        frame: index of the frame, slice or page in the file, from 0.
        kind: how the pixels are read.
        fields: what may be shown and filtered by (``modality``, ``organ``, ``caption``, ...).
        patient: what identifies the patient, or None where the source has none.
        study_uid, series_uid, sop_instance_uid: DICOM UIDs, empty elsewhere.
        multi: the file yields more than one record, so that ``path#frame`` names it.
    """

    image_id: str
    path: Path
    relative_path: str
    frame: int = 0
    kind: MediaKind = MediaKind.PICTURE
    fields: Mapping[str, FieldValue] = field(default_factory=lambda: _NO_FIELDS)
    patient: Patient | None = None
    study_uid: str = ""
    series_uid: str = ""
    sop_instance_uid: str = ""
    multi: bool = False

    @property
    def name(self) -> str:
        """``relative_path``, with ``#frame`` where the file yields several records.

        >>> path = Path("/scans/x.dcm")
        >>> ImageRecord(image_id="a#3", path=path, relative_path="x.dcm", frame=3, multi=True).name
        'x.dcm#3'
        """
        return f"{self.relative_path}#{self.frame}" if self.multi else self.relative_path


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """One file or frame that was not indexed, and why."""

    name: str
    code: str
    what: str
    hint: str = ""

    @classmethod
    def of(cls, name: str, error: ImageRejected) -> Rejection:
        """The rejection that ``error`` stands for, under the record's or file's ``name``."""
        return cls(name=name, code=error.code, what=error.what, hint=error.hint)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One result. ``score`` is the cosine in [-1, 1]; ``rank`` counts from 1."""

    rank: int
    score: float
    image_id: str
    relative_path: str
    path: Path
    frame: int
    kind: MediaKind
    study_uid: str = ""
    fields: Mapping[str, FieldValue] = field(default_factory=lambda: _NO_FIELDS)
    group_size: int = 1
