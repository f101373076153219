"""DICOM files made for tests. Patients are planted, so that a leak can be found by their marks."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

CT = "1.2.840.10008.5.1.4.1.1.2"
MARK = "PLANTED"


def make_dataset(uid: str = "1.2.3.4", **elements: object) -> Dataset:
    """A CT slice of 8 x 6 pixels; ``elements`` replace or add, and None removes."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    values: dict[str, object] = {
        "SOPClassUID": CT,
        "SOPInstanceUID": uid,
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.1",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Modality": "CT",
        "StudyDate": "20240229",
        "PatientName": f"{MARK}^Name",
        "PatientID": f"{MARK}-id",
        "PatientBirthDate": "19010203",
        "AccessionNumber": f"{MARK}-acc",
        "Rows": 8,
        "Columns": 6,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "WindowCenter": 24,
        "WindowWidth": 48,
        "PixelData": np.arange(48, dtype="<u2").tobytes(),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in {**values, **elements}.items():
            if value is not None:
                setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", CT)
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    return dataset


def write(path: Path, dataset: Dataset | None = None, **elements: object) -> Path:
    """Write ``dataset`` (a made one where None) with a preamble."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (dataset or make_dataset(**elements)).save_as(path, enforce_file_format=True)  # type: ignore[arg-type]
    return path
