"""What indexing needs of one DICOM file, made of its data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pydicom.dataset import Dataset

from clinical_clip.dicom.limits import Limits
from clinical_clip.dicom.values import code_of, numbers_of, text_of, texts_of, uid_of, whole_of
from clinical_clip.errors import CorruptImage, LimitExceeded
from clinical_clip.types import FieldValue, Patient

__all__ = ["HEADER_TAGS", "DicomHeader", "make_header"]

HEADER_TAGS: tuple[int, ...] = (
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
)
"""The elements that a header is made of."""


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


def make_header(dataset: Dataset, has_pixels: bool, limits: Limits) -> DicomHeader:
    """The header in ``dataset``, which holds ``HEADER_TAGS`` and the file meta information.

    Raises:
        CorruptImage: neither a SOP class nor an image size.
        LimitExceeded: a declared size past ``limits``.
    """
    rows, columns = whole_of(dataset, "Rows") or 0, whole_of(dataset, "Columns") or 0
    n_frames = max(1, whole_of(dataset, "NumberOfFrames") or 1)
    if rows * columns > limits.max_pixels:
        raise LimitExceeded(f"{rows} x {columns} pixels in a frame", hint="raise max_pixels")
    if n_frames > limits.max_frames:
        raise LimitExceeded(f"{n_frames:,} frames", hint="raise max_frames")
    meta = getattr(dataset, "file_meta", None) or Dataset()
    sop_class_uid = uid_of(dataset, "SOPClassUID") or uid_of(meta, "MediaStorageSOPClassUID")
    if not sop_class_uid and not (rows and columns):
        raise CorruptImage("neither a SOP class nor an image size")
    return DicomHeader(
        sop_class_uid=sop_class_uid,
        sop_instance_uid=uid_of(dataset, "SOPInstanceUID"),
        series_uid=uid_of(dataset, "SeriesInstanceUID"),
        study_uid=uid_of(dataset, "StudyInstanceUID"),
        transfer_syntax_uid=text_of(meta, "TransferSyntaxUID"),
        image_type=tuple(value.upper() for value in texts_of(dataset, "ImageType")),
        presentation_intent=text_of(dataset, "PresentationIntentType").upper(),
        burned_in=text_of(dataset, "BurnedInAnnotation").upper() == "YES",
        n_frames=n_frames,
        rows=rows,
        columns=columns,
        has_pixels=has_pixels,
        instance_number=whole_of(dataset, "InstanceNumber"),
        position=numbers_of(dataset, "ImagePositionPatient", 3),
        orientation=numbers_of(dataset, "ImageOrientationPatient", 6),
        fields=_fields(dataset, sop_class_uid, rows, columns),
        patient=Patient(
            patient_id=text_of(dataset, "PatientID"),
            issuer=text_of(dataset, "IssuerOfPatientID"),
            name=text_of(dataset, "PatientName"),
            birth_date=text_of(dataset, "PatientBirthDate"),
            accession_number=text_of(dataset, "AccessionNumber"),
        ),
    )


def _fields(dataset: Dataset, sop_class_uid: str, rows: int, columns: int) -> dict[str, FieldValue]:
    body_part = text_of(dataset, "BodyPartExamined")
    fields: dict[str, FieldValue] = {
        "modality": text_of(dataset, "Modality").upper(),
        "body_part": body_part.upper() or code_of(dataset, "AnatomicRegionSequence"),
        "laterality": (text_of(dataset, "ImageLaterality") or text_of(dataset, "Laterality")).upper(),
        "view": text_of(dataset, "ViewPosition").upper() or code_of(dataset, "ViewCodeSequence"),
        "manufacturer": text_of(dataset, "Manufacturer"),
        "study_description": text_of(dataset, "StudyDescription"),
        "series_description": text_of(dataset, "SeriesDescription"),
        "sop_class": sop_class_uid,
        "rows": rows,
        "columns": columns,
    }
    try:
        day = datetime.strptime(text_of(dataset, "StudyDate")[:8], "%Y%m%d").date()
        fields |= {"study_date": day.isoformat(), "year": day.year}
    except ValueError:
        pass
    number = whole_of(dataset, "InstanceNumber")
    if number is not None:
        fields["instance_number"] = number
    return {
        name: value for name, value in fields.items() if value not in ("", 0) or name == "instance_number"
    }
