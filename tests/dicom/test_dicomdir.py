from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from clinical_clip.dicom.dicomdir import read_dicomdir
from clinical_clip.dicom.limits import Limits
from clinical_clip.errors import CorruptImage, LimitExceeded


def write_dicomdir(path: Path, references: list[list[str] | str]) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.9"
    records = []
    for reference in references:
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        record.add_new(0x00041500, "CS", reference)
        records.append(record)
    dataset.DirectoryRecordSequence = records
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_a_real_dicomdir_names_the_files_beside_it():
    path = Path(str(get_testdata_file("DICOMDIR")))
    files, rejections = read_dicomdir(path)
    assert len(files) == 31
    assert all(file.is_file() for file in files)
    assert rejections == []


def test_names_are_found_without_case_and_version(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "im1;1").touch()
    files, rejections = read_dicomdir(write_dicomdir(tmp_path / "DICOMDIR", [["IMAGES", "IM1"]]))
    assert [file.name for file in files] == ["im1;1"]
    assert rejections == []


def test_a_reference_is_listed_once(tmp_path):
    (tmp_path / "A").touch()
    files, _ = read_dicomdir(write_dicomdir(tmp_path / "DICOMDIR", ["A", "A"]))
    assert len(files) == 1


def test_a_missing_file_is_named(tmp_path):
    files, [rejection] = read_dicomdir(write_dicomdir(tmp_path / "DICOMDIR", [["GONE", "IM1"]]))
    assert files == []
    assert (rejection.name, rejection.code) == ("GONE/IM1", "source")
    assert "not there" in rejection.what


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "reference", [["..", "OUT"], ["/OUT"], ["A", "", "B"], ["."], ["C:", "X"], ["A/../../OUT"]]
)
def test_a_reference_never_leaves_the_folder(tmp_path, reference):
    (tmp_path / "OUT").touch()
    (tmp_path / "medium" / "A").mkdir(parents=True)
    files, rejections = read_dicomdir(write_dicomdir(tmp_path / "medium" / "DICOMDIR", [reference]))
    assert files == []
    assert "leaves its folder" in rejections[0].what


def test_a_link_does_not_lead_out_of_the_folder_either(tmp_path):
    (tmp_path / "OUT").touch()
    (tmp_path / "medium").mkdir()
    os.symlink(tmp_path / "OUT", tmp_path / "medium" / "IN")
    files, rejections = read_dicomdir(write_dicomdir(tmp_path / "medium" / "DICOMDIR", ["IN"]))
    assert files == []
    assert "leaves its folder" in rejections[0].what


@pytest.mark.parametrize("n_bytes", [0, 100, 400])
def test_a_damaged_dicomdir(tmp_path, n_bytes):
    path = tmp_path / "DICOMDIR"
    shutil.copyfile(str(get_testdata_file("DICOMDIR")), path)
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(CorruptImage, match="not a DICOMDIR"):
        read_dicomdir(path)


def test_a_dicomdir_that_is_too_large(tmp_path):
    path = write_dicomdir(tmp_path / "DICOMDIR", ["A"])
    with pytest.raises(LimitExceeded):
        read_dicomdir(path, limits=Limits(max_header_bytes=100))


def test_of_a_dicomdir_that_is_cut_short_the_first_references_are_kept(tmp_path):
    whole = write_dicomdir(tmp_path / "DICOMDIR", [f"IM{i}" for i in range(40)])
    (tmp_path / "IM0").touch()
    whole.write_bytes(whole.read_bytes()[:600])
    files, rejections = read_dicomdir(whole)
    assert [file.name for file in files] == ["IM0"]
    assert 0 < len(rejections) < 39
