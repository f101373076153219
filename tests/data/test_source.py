from __future__ import annotations

import os

import pytest
from tests.data.makers import split, write_picture
from tests.dicom.makers import MARK, write
from tests.dicom.test_dicomdir import write_dicomdir

from clinical_clip.data.source import open_source
from clinical_clip.errors import OptionError, SourceError


def test_a_single_file(tmp_path):
    path = write_picture(tmp_path / "x.png")
    write_picture(tmp_path / "y.png")
    source = open_source(path)
    records, _ = split(source)
    assert [record.name for record in records] == ["x.png"]
    assert source.description == "file x.png"


def test_a_single_file_that_is_no_image(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("nothing to see " * 100)
    records, [rejection] = split(open_source(path))
    assert records == []
    assert rejection.code == "unsupported"


def test_a_dicomdir_gives_what_it_references(tmp_path):
    write(tmp_path / "IM1", uid="1.1")
    write(tmp_path / "IM2", uid="1.2")
    source = open_source(write_dicomdir(tmp_path / "DICOMDIR", ["IM2", "IM9"]))
    records, [rejection] = split(source)
    assert [record.name for record in records] == ["IM2"]
    assert rejection.name == "IM9"


def test_a_damaged_dicomdir(tmp_path):
    (tmp_path / "DICOMDIR").write_bytes(b"nothing")
    with pytest.raises(SourceError, match="not a DICOMDIR"):
        open_source(tmp_path / "DICOMDIR")


def test_nothing_there(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        open_source(tmp_path / "gone")


def test_neither_file_nor_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="not a regular file"):
        open_source(tmp_path / "pipe")


def test_an_image_root_is_for_manifests(tmp_path):
    with pytest.raises(OptionError):
        open_source(tmp_path, image_root=tmp_path)


def test_a_source_does_not_show_patients(tmp_path):
    write(tmp_path / "x")
    source = open_source(tmp_path)
    assert MARK not in repr(source) + repr(list(source))
