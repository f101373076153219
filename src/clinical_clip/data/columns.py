"""Which columns of a manifest are what."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_COLUMNS", "ManifestColumns"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestColumns:
    """Which columns of a manifest are what; every other column becomes a field that is shown.

    Attributes:
        image: paths, relative to the image root.
        frame: frame, slice or page of a file that has several, from 0. May be absent or empty: then the
            frame policy chooses.
        patient: columns that tell patients apart, the best first; the first one present becomes the
            patient id. All of them are kept from what is shown.
        hidden: further columns that identify a person and are kept from what is shown.
        study: a column that groups images into studies.
    """

    image: str = "image"
    frame: str = "frame"
    patient: tuple[str, ...] = (
        "patient_id",
        "subject_id",
        "subject",
        "patient",
        "patient_or_study",
        "PatientID",
    )
    hidden: tuple[str, ...] = (
        "patient_name",
        "PatientName",
        "birth_date",
        "patient_birth_date",
        "PatientBirthDate",
        "accession_number",
        "AccessionNumber",
        "mrn",
        "MRN",
    )
    study: str = "study_uid"


DEFAULT_COLUMNS = ManifestColumns()
"""The columns that are looked for where none are named."""
