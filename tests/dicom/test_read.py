from __future__ import annotations

import contextlib
import logging
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian
from tests.dicom.makers import CT, MARK, make_dataset, write

from clinical_clip.dicom.limits import Limits
from clinical_clip.dicom.read import looks_like_dicom, read_frame_positions, read_header
from clinical_clip.dicom.values import valid_uid
from clinical_clip.errors import CorruptImage, ImageRejected, LimitExceeded


def test_the_header_of_a_real_ct_slice():
    path = Path(str(get_testdata_file("CT_small.dcm")))
    header = read_header(path)
    assert header.sop_class_uid == CT
    assert header.sop_instance_uid == "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"
    assert header.study_uid == "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322"
    assert header.series_uid == "1.3.6.1.4.1.5962.1.3.1.1.20040119072730.12322"
    assert header.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert (header.n_frames, header.rows, header.columns, header.has_pixels) == (1, 128, 128, True)
    assert header.position == pytest.approx((-158.135803, -179.035797, -75.699997))
    assert header.orientation == (1, 0, 0, 0, 1, 0)
    assert header.fields["modality"] == "CT"
    assert header.fields["study_date"] == "2004-01-19"
    assert header.fields["year"] == 2004
    assert header.patient.patient_id == "1CT1"
    assert header.patient.name == "CompressedSamples^CT1"


def test_what_identifies_a_patient_is_not_among_the_fields_nor_in_the_repr(tmp_path):
    header = read_header(write(tmp_path / "x", IssuerOfPatientID=f"{MARK}-issuer"))
    assert header.patient.patient_id == f"{MARK}-id"
    assert header.patient.issuer == f"{MARK}-issuer"
    assert header.patient.accession_number == f"{MARK}-acc"
    assert header.patient.birth_date == "19010203"
    assert MARK not in repr(header)
    assert "1901" not in repr(header)


def test_missing_and_empty_elements_give_no_fields(tmp_path):
    header = read_header(write(tmp_path / "x", Modality="", StudyDate="", BodyPartExamined=""))
    assert set(header.fields) == {"sop_class", "rows", "columns"}
    assert header.instance_number is None
    assert header.position is None


def test_fields_from_codes_where_the_plain_attributes_are_missing(tmp_path):
    code = Dataset()
    code.CodeMeaning = "Breast"
    view = Dataset()
    view.CodeMeaning = "cranio-caudal"
    header = read_header(
        write(tmp_path / "x", AnatomicRegionSequence=[code], ViewCodeSequence=[view], ImageLaterality="l")
    )
    assert (header.fields["body_part"], header.fields["view"]) == ("Breast", "cranio-caudal")
    assert header.fields["laterality"] == "L"


def test_control_characters_and_endless_text_are_cut(tmp_path):
    header = read_header(write(tmp_path / "x", StudyDescription="a\x1b[31mb\r\nc" + "d" * 5000))
    text = str(header.fields["study_description"])
    assert text.startswith("a [31mb c")
    assert len(text) <= 1024


def test_character_sets(tmp_path):
    dataset = make_dataset(SpecificCharacterSet="ISO_IR 100", SeriesDescription="Schädel")
    assert read_header(write(tmp_path / "x", dataset)).fields["series_description"] == "Schädel"
    dataset = make_dataset(SpecificCharacterSet="ISO_IR 192", SeriesDescription="頭部")
    assert read_header(write(tmp_path / "y", dataset)).fields["series_description"] == "頭部"


@pytest.mark.parametrize(
    "bad", ["../../x", "1." * 32 + "1", "", "1.2.a", "1..2", ".1", "1.2.", "1.2\n", "/etc"]
)
def test_no_such_uid(bad):
    assert not valid_uid(bad)


@pytest.mark.parametrize("bad", ["../../x", "1." * 32 + "12", "not a uid"])
def test_what_is_not_a_uid_is_left_empty(tmp_path, bad):
    path = write(tmp_path / "x")
    good = b"UI" + len(b"1.2.3.4\0").to_bytes(2, "little") + b"1.2.3.4\0"
    raw = bad.encode() + b"\0" * (len(bad) % 2)
    data = path.read_bytes()
    at = data.rindex(good)
    path.write_bytes(data[:at] + b"UI" + len(raw).to_bytes(2, "little") + raw + data[at + len(good) :])
    header = read_header(path)
    assert header.sop_instance_uid == ""
    assert header.study_uid == "1.2.3"


def test_an_executable_preamble_does_no_harm(tmp_path):
    path = write(tmp_path / "x")
    path.write_bytes(b"MZ" + b"\x90" * 126 + path.read_bytes()[128:])
    assert read_header(path).rows == 8


@pytest.mark.parametrize("implicit", [False, True])
def test_without_preamble_and_meta_information(tmp_path, implicit):
    dataset = make_dataset()
    del dataset.file_meta
    path = tmp_path / "x"
    dataset.save_as(path, implicit_vr=implicit, little_endian=True)
    assert looks_like_dicom(path.read_bytes())
    header = read_header(path)
    assert (header.sop_instance_uid, header.rows, header.has_pixels) == ("1.2.3.4", 8, True)


def test_implicit_little_endian(tmp_path):
    dataset = make_dataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    header = read_header(write(tmp_path / "x", dataset))
    assert (header.transfer_syntax_uid, header.columns) == ("1.2.840.10008.1.2", 6)


def test_deflated(tmp_path):
    dataset = make_dataset()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    header = read_header(write(tmp_path / "x", dataset))
    assert header.transfer_syntax_uid == DeflatedExplicitVRLittleEndian
    assert (header.rows, header.has_pixels) == (8, True)


def _deflated_bomb(tmp_path: Path) -> Path:
    dataset = make_dataset()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = write(tmp_path / "x", dataset)
    data = path.read_bytes()
    start = 132 + 12 + int.from_bytes(data[140:144], "little")
    private = b"\x09\0\x10\x10OB\0\0" + (1 << 29).to_bytes(4, "little")
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = squeeze.compress(private)
    for _ in range(40):
        body += squeeze.compress(bytes(1 << 20))
    path.write_bytes(data[:start] + body + squeeze.flush())
    return path


def test_a_deflated_bomb_is_cut_off(tmp_path):
    path = _deflated_bomb(tmp_path)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ImageRejected):
        read_header(path, limits=Limits(max_inflated_bytes=1 << 20, max_header_bytes=1 << 20))


@pytest.mark.parametrize("depth", [300, 20_000])
def test_nested_sequences_are_refused(tmp_path, depth):
    path = write(tmp_path / "x")
    data = path.read_bytes()
    at = data.index(b"\x08\0\x60\0CS")
    opened = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
    closed = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    path.write_bytes(data[:at] + opened * depth + closed * depth + data[at:])
    with pytest.raises(LimitExceeded, match="nested"):
        read_header(path)


def test_sequences_of_defined_length_are_skipped_whole(tmp_path):
    item = Dataset()
    for _ in range(50):
        outer = Dataset()
        outer.ReferencedImageSequence = Sequence([item])
        item = outer
    assert read_header(write(tmp_path / "x", ReferencedImageSequence=[item])).rows == 8


def test_a_header_past_the_first_block_is_still_read(tmp_path):
    dataset = make_dataset()
    dataset.add_new(0x00091010, "OB", bytes(300_000))
    assert read_header(write(tmp_path / "x", dataset)).rows == 8


def test_more_bytes_before_the_pixels_than_allowed(tmp_path):
    dataset = make_dataset()
    dataset.add_new(0x00091010, "OB", bytes(300_000))
    with pytest.raises(LimitExceeded, match="before the pixel data"):
        read_header(write(tmp_path / "x", dataset), limits=Limits(max_header_bytes=100_000))


@pytest.mark.parametrize(
    ("elements", "what"),
    [({"Rows": 65535, "Columns": 65535}, "65535 x 65535"), ({"NumberOfFrames": 70_000}, "70,000 frames")],
)
def test_declared_sizes_past_the_limits(tmp_path, elements, what):
    with pytest.raises(LimitExceeded, match=what):
        read_header(write(tmp_path / "x", **elements))


@pytest.mark.parametrize("data", [b"", b"\0" * 500, b"random bytes, no image " * 40, bytes(128) + b"DICM"])
def test_what_is_not_dicom(tmp_path, data):
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(CorruptImage):
        read_header(path)


def test_garbage_numbers_are_as_good_as_none(tmp_path):
    path = write(tmp_path / "x", InstanceNumber="7", ImagePositionPatient=["1", "2", "3"])
    data = path.read_bytes()
    path.write_bytes(data.replace(b"7 ", b"x ").replace(b"1\\2\\3", b"1\\n\\3"))
    header = read_header(path)
    assert header.instance_number is None
    assert header.position is None


def test_an_error_says_nothing_of_the_patient(tmp_path):
    path = write(tmp_path / "scan", Rows=65535, Columns=65535)
    with pytest.raises(LimitExceeded) as caught:
        read_header(path)
    assert MARK not in str(caught.value)
    assert "scan" in str(caught.value)


def test_nothing_of_the_patient_is_logged(tmp_path, caplog, recwarn):
    path = write(tmp_path / "x", StudyDate=f"{MARK}", InstanceNumber="1", PatientBirthDate=f"{MARK}")
    path.write_bytes(path.read_bytes().replace(b"IS\x02\x001 ", b"IS\x02\x00X "))
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        read_header(path)
    assert MARK not in caplog.text
    assert not [warning for warning in recwarn if MARK in str(warning.message)]
    assert not logging.getLogger("pydicom").disabled


@pytest.mark.parametrize("cut", range(0, 1100, 7))
def test_a_file_cut_anywhere_is_a_header_or_a_rejection(tmp_path, cut):
    path = write(tmp_path / "x")
    path.write_bytes(path.read_bytes()[:cut])
    with contextlib.suppress(ImageRejected):
        assert read_header(path).rows in (0, 8)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), min_size=1, max_size=12),
    deflated=st.booleans(),
)
def test_a_file_changed_anywhere_is_a_header_or_a_rejection(tmp_path, changes, deflated):
    dataset = make_dataset()
    if deflated:
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = write(tmp_path / "x", dataset)
    data = bytearray(path.read_bytes())
    for at, value in changes:
        data[at % len(data)] = value
    path.write_bytes(data)
    with contextlib.suppress(ImageRejected):
        header = read_header(path, limits=Limits(max_header_bytes=1 << 20, max_inflated_bytes=1 << 20))
        assert header.n_frames >= 1
        assert header.sop_instance_uid == "" or valid_uid(header.sop_instance_uid)


def test_positions_of_frames_in_an_enhanced_object(tmp_path):
    shared, plane = Dataset(), Dataset()
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PlaneOrientationSequence = [plane]
    per_frame = []
    for z in (5, 0):
        groups, position = Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, z]
        groups.PlanePositionSequence = [position]
        per_frame.append(groups)
    path = write(
        tmp_path / "x", SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=per_frame
    )
    assert read_frame_positions(path) == [
        ((0.0, 0.0, 5.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
        ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
    ]


def test_positions_of_frames_where_there_are_none(tmp_path):
    assert read_frame_positions(write(tmp_path / "x")) == []
