from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.makers import split, write_picture, write_volume
from tests.dicom.makers import MARK, make_dataset, write
from tests.dicom.test_dicomdir import write_dicomdir

from clinical_clip.data.source import open_source
from clinical_clip.dicom.frames import FramePolicy
from clinical_clip.dicom.limits import Limits
from clinical_clip.dicom.objects import ObjectPolicy
from clinical_clip.types import MediaKind

AXIAL = [1, 0, 0, 0, 1, 0]


def names(items):
    return [one.name for one in items]


def test_a_mixed_tree(tmp_path):
    write_picture(tmp_path / "b" / "one.png")
    write_picture(tmp_path / "a.jpg", 1)
    write_picture(tmp_path / "c.webp", 2)
    write_picture(tmp_path / "d.tif", 3)
    write(tmp_path / "b" / "IM0001", uid="1.2.3.4.5")
    write_volume(tmp_path / "v.nii.gz", np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    (tmp_path / "labels.csv").write_text("image\n")
    (tmp_path / ".hidden").mkdir()
    write_picture(tmp_path / ".hidden" / "x.png")
    source = open_source(tmp_path)
    records, rejections = split(source)
    assert names(records) == [
        "a.jpg",
        "b/one.png",
        "c.webp",
        "d.tif",
        "v.nii.gz#0",
        "v.nii.gz#1",
        "v.nii.gz#2",
        "v.nii.gz#3",
        "b/IM0001",
    ]
    assert rejections == []
    assert (source.counts.files, source.counts.ignored) == (7, 1)
    assert source.root == tmp_path.resolve()
    assert {record.kind for record in records} == set(MediaKind)


def test_ids_are_of_content_or_of_the_uid(tmp_path):
    path = write_picture(tmp_path / "x.png")
    write(tmp_path / "y", uid="1.2.9")
    picture, dicom = split(open_source(tmp_path))[0]
    assert picture.image_id == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}#0"
    assert dicom.image_id == "1.2.9#0"
    assert (dicom.sop_instance_uid, dicom.series_uid, dicom.study_uid) == ("1.2.9", "1.2.3.1", "1.2.3")
    assert picture.patient is None
    assert dicom.patient is not None
    assert dicom.patient.patient_id == f"{MARK}-id"
    assert MARK not in repr(dicom)


def test_a_large_picture_is_hashed_whole(tmp_path):
    path = write_picture(tmp_path / "x.bmp", size=(900, 900))
    [record] = split(open_source(tmp_path))[0]
    assert record.image_id == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}#0"


@pytest.mark.parametrize("uid", ["../../x", ""])
def test_without_a_valid_uid_the_content_is_the_id(tmp_path, uid):
    dataset = make_dataset()
    del dataset.SOPInstanceUID
    path = write(tmp_path / "x", dataset)
    if uid:
        data = path.read_bytes()
        at = data.index(b"\x08\0\x20\0DA")
        path.write_bytes(data[:at] + b"\x08\0\x18\0UI\x08\0../../x\0" + data[at:])
    [record] = split(open_source(tmp_path))[0]
    assert record.image_id == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}#0"
    assert record.sop_instance_uid == ""


@pytest.mark.parametrize(
    ("name", "data", "code", "what"),
    [
        ("x.png", b"", "corrupt", "empty"),
        ("x.png", b"no picture at all" * 20, "unsupported", "not a format"),
        ("x.dcm", b"no picture at all" * 20, "corrupt", "despite its name"),
        ("x.svg", b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported", "SVG"),
        ("x.zip", b"PK\x03\x04" + bytes(100), "unsupported", "ZIP"),
        ("x.gz", b"\x1f\x8b" + bytes(100), "unsupported", "gzip"),
        ("x.pdf", b"%PDF-1.7" + bytes(100), "unsupported", "PDF"),
        ("x.nii.gz", b"\x1f\x8b" + bytes(100), "corrupt", "NIfTI"),
        ("x.nii", bytes(344) + b"n+1\0" + bytes(100), "corrupt", "NIfTI"),
        ("x.tif", b"II*\0" + bytes(100), "corrupt", ""),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, data, code, what):
    (tmp_path / name).write_bytes(data)
    write_picture(tmp_path / "good.png")
    records, [rejection] = split(open_source(tmp_path))
    assert names(records) == ["good.png"]
    assert (rejection.name, rejection.code) == (name, code)
    assert what in rejection.what
    assert rejection.hint


def test_a_file_past_the_limit(tmp_path):
    write_picture(tmp_path / "x.png")
    _, [rejection] = split(open_source(tmp_path, limits=Limits(max_file_bytes=50)))
    assert rejection.code == "limit"


def test_pages_of_a_tiff_are_bounded(tmp_path):
    pages = [Image.fromarray(np.full((4, 4), i, dtype=np.uint8)) for i in range(7)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    source = open_source(tmp_path, policy=FramePolicy(max_per_file=3))
    records, _ = split(source)
    assert names(records) == ["x.tif#1", "x.tif#3", "x.tif#5"]
    assert source.counts.left_out == 4


def test_links(tmp_path):
    outside = write_picture(tmp_path / "outside.png")
    root = tmp_path / "root"
    inside = write_picture(root / "a" / "inside.png", 1)
    os.symlink(outside, root / "out.png")
    os.symlink(tmp_path, root / "up")
    os.symlink(root / "a", root / "b")
    os.symlink(inside, root / "c.png")
    os.symlink(root / "nothing", root / "d.png")
    records, rejections = split(open_source(root))
    assert names(records) == ["a/inside.png", "c.png"]
    assert {one.name: one.code for one in rejections} == dict.fromkeys(["d.png", "out.png", "up"], "source")


def test_a_pipe_and_a_socket_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        _, rejections = split(open_source(tmp_path))
    assert [one.what for one in rejections] == ["not a regular file"] * 2


def test_a_name_that_is_not_utf8(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb") as file:
        file.write(b"x")
    _, [rejection] = split(open_source(tmp_path))
    assert "UTF-8" in rejection.what
    assert rejection.name.encode() == b"\\udcff.png"


@contextmanager
def _without_privileges():
    """Root may read everything: then the test goes on as nobody."""
    euid = os.geteuid()
    os.seteuid(65534 if euid == 0 else euid)
    try:
        yield
    finally:
        os.seteuid(euid)


def test_what_may_not_be_read():
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        write_picture(root / "x.png").chmod(0)
        (root / "closed").mkdir(mode=0)
        with _without_privileges():
            _, rejections = split(open_source(root))
    assert [(one.name, one.code) for one in rejections] == [("closed", "source"), ("x.png", "source")]
    assert "permission denied" in rejections[0].what


def _series(folder, n, uid="1.2.3.1", **elements):
    for i in range(n):
        write(
            folder / f"{i:03}",
            uid=f"{uid}.{i + 1}",
            SeriesInstanceUID=uid,
            InstanceNumber=n - i,
            **elements,
        )


def test_a_series_is_bounded_and_ordered_by_place(tmp_path):
    heights = [40, 0, 30, 10, 50, 20, 60]
    for i, z in enumerate(heights):
        folder = "even" if i % 2 else "odd"
        write(
            tmp_path / folder / f"{i}",
            uid=f"1.9.{i}",
            ImagePositionPatient=[0, 0, z],
            ImageOrientationPatient=AXIAL,
        )
    source = open_source(tmp_path, policy=FramePolicy(max_per_series=3))
    records, _ = split(source)
    assert [heights[int(record.image_id[4])] for record in records] == [10, 30, 50]
    assert source.counts.left_out == 4


def test_without_a_geometry_by_instance_number(tmp_path):
    _series(tmp_path, 9)
    records, _ = split(open_source(tmp_path, policy=FramePolicy(max_per_series=3)))
    assert [record.fields["instance_number"] for record in records] == [2, 5, 8]


def test_series_are_apart_and_in_path_order(tmp_path):
    _series(tmp_path / "z", 3, "1.5")
    _series(tmp_path / "a", 3, "1.6")
    records, _ = split(open_source(tmp_path, policy=FramePolicy(max_per_series=1)))
    assert names(records) == ["a/001", "z/001"]


def test_localizers_are_a_series_of_their_own(tmp_path):
    _series(tmp_path / "slices", 4)
    for i in range(2):
        write(tmp_path / f"scout{i}", uid=f"1.7.{i}", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    policy = FramePolicy(max_per_series=2)
    records, rejections = split(open_source(tmp_path, policy=policy))
    assert (len(records), names(rejections)) == (2, ["scout0", "scout1"])
    records, rejections = split(open_source(tmp_path, policy=policy, objects=ObjectPolicy(localizers=True)))
    assert (len(records), rejections) == (4, [])


def test_frames_and_files_of_a_series_are_bounded_together(tmp_path):
    for i in range(3):
        write(tmp_path / f"cine{i}", uid=f"1.8.{i}", InstanceNumber=i, NumberOfFrames=30)
    source = open_source(tmp_path, policy=FramePolicy(max_per_series=6, max_per_file=4))
    records, _ = split(source)
    assert names(records) == ["cine0#11", "cine0#26", "cine1#11", "cine1#26", "cine2#11", "cine2#26"]
    assert source.counts.left_out == 84


def test_without_a_series_each_file_stands_alone(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}", uid=f"1.8.{i}", SeriesInstanceUID=None)
    records, _ = split(open_source(tmp_path, policy=FramePolicy(max_per_series=1)))
    assert len(records) == 3


def test_a_repeated_uid(tmp_path):
    path = write(tmp_path / "a", uid="1.2.5")
    (tmp_path / "b").write_bytes(path.read_bytes())
    write(tmp_path / "c", uid="1.2.5", Rows=4, PixelData=bytes(48))
    source = open_source(tmp_path)
    records, [rejection] = split(source)
    assert names(records) == ["a"]
    assert source.counts.duplicates == 1
    assert (rejection.name, rejection.code) == ("c", "corrupt")
    assert "same SOP Instance UID" in rejection.what


def test_a_tree_too_large_to_keep_its_headers_gives_the_same(tmp_path, monkeypatch):
    _series(tmp_path, 9)
    policy = FramePolicy(max_per_series=4)
    whole = split(open_source(tmp_path, policy=policy))
    monkeypatch.setattr("clinical_clip.data.series._KEPT", 2)
    assert split(open_source(tmp_path, policy=policy)) == whole


def test_a_file_that_changes_meanwhile_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr("clinical_clip.data.series._KEPT", 0)
    write(tmp_path / "a", uid="1.2.5")
    write_picture(tmp_path / "b.png")
    items = iter(open_source(tmp_path))
    next(items)
    (tmp_path / "a").unlink()
    [rejection] = list(items)
    assert (rejection.name, rejection.code) == ("a", "source")


def test_a_dicomdir_in_a_tree_adds_what_is_missing(tmp_path):
    write(tmp_path / "disc" / "IM1", uid="1.1")
    write(tmp_path / "disc" / "IM2", uid="1.2")
    write_dicomdir(tmp_path / "disc" / "DICOMDIR", ["IM1", "IM9"])
    source = open_source(tmp_path)
    records, [rejection] = split(source)
    assert names(records) == ["disc/IM1", "disc/IM2"]
    assert (rejection.name, source.counts.missing) == ("disc/IM9", 1)


def test_a_damaged_dicomdir_does_not_stop_the_tree(tmp_path):
    write(tmp_path / "IM1")
    (tmp_path / "DICOMDIR").write_bytes(b"nothing")
    records, [rejection] = split(open_source(tmp_path))
    assert names(records) == ["IM1"]
    assert rejection.name == "DICOMDIR"
