from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from tests.data.makers import split, write_picture, write_volume
from tests.dicom.makers import MARK, write

from clinical_clip.data.columns import ManifestColumns
from clinical_clip.data.manifest import open_manifest
from clinical_clip.data.source import open_source
from clinical_clip.dicom.frames import FramePolicy
from clinical_clip.errors import ManifestError

SHARED = Path(__file__).parents[3] / "shared/data"


@pytest.fixture
def images(tmp_path):
    for i in range(3):
        write_picture(tmp_path / "images" / f"{i}.png", i)
    return tmp_path / "images"


def manifest(images, text, name="m.csv"):
    path = images.parent / name
    path.write_text(text)
    return open_source(path, image_root=images)


def test_rows_become_records_in_their_order(images):
    text = "image,modality,organ,age,caption\n2.png,ct,chest,61,A mass.\n0.png,mr,brain,,\n"
    source = manifest(images, text)
    records, rejections = split(source)
    assert rejections == []
    assert [record.relative_path for record in records] == ["2.png", "0.png"]
    assert dict(records[0].fields) == {"modality": "ct", "organ": "chest", "age": 61, "caption": "A mass."}
    assert dict(records[1].fields) == {"modality": "mr", "organ": "brain"}
    assert source.root == images.resolve()
    assert source.description == "manifest m.csv"
    assert source.counts.files == 2


def test_its_own_folder_is_the_root_by_default(images):
    path = images / "m.csv"
    path.write_text("image\n0.png\n")
    records, _ = split(open_source(path))
    assert [record.path for record in records] == [images.resolve() / "0.png"]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "-2", "0"], [1, -2, 0]),
        (["1", "2.5", "1e3"], [1, 2.5, 1000.0]),
        (["1", "2", "x"], ["1", "2", "x"]),
        (["007", "2", "3"], ["007", "2", "3"]),
        (["nan", "2", "3"], ["nan", "2", "3"]),
        (["12345678901234567", "2", "3"], ["12345678901234567", "2", "3"]),
        (["1_000", "2", "3"], ["1_000", "2", "3"]),
        (["٣", "2", "3"], ["٣", "2", "3"]),
    ],
)
def test_a_column_is_numbers_only_where_all_of_it_is(images, cells, values):
    text = "image,value\n" + "".join(f"{i}.png,{cell}\n" for i, cell in enumerate(cells))
    records, _ = split(manifest(images, text))
    shown = [record.fields["value"] for record in records]
    assert shown == values
    assert [type(one) for one in shown] == [type(one) for one in values]


@pytest.mark.parametrize("column", ["patient_id", "subject", "patient", "patient_or_study"])
def test_what_identifies_a_patient_is_kept_apart(images, column):
    text = f"image,{column},patient_name,birth_date,mrn,split_group\n0.png,{MARK},{MARK},{MARK},{MARK},g1\n"
    [record], _ = split(manifest(images, text))
    assert record.patient is not None
    assert record.patient.patient_id == MARK
    assert dict(record.fields) == {"split_group": "g1"}
    assert MARK not in repr(record)


def test_the_best_of_several_identity_columns(images):
    [record], _ = split(manifest(images, "image,patient_or_study,patient_id\n0.png,b,a\n"))
    assert record.patient is not None
    assert record.patient.patient_id == "a"
    assert dict(record.fields) == {}


def test_other_column_names(images):
    path = images.parent / "m.csv"
    path.write_text("file,who,case\n0.png,p1,c1\n")
    columns = ManifestColumns(image="file", patient=("who",), study="case")
    [record], _ = split(open_source(path, image_root=images, columns=columns))
    assert record.patient is not None
    assert (record.patient.patient_id, record.study_uid) == ("p1", "c1")


def test_dicom_rows_keep_their_header_and_the_manifest_has_the_last_word(images):
    write(images / "x.dcm", uid="1.2.8")
    text = "image,modality,patient_id\nx.dcm,xray,P7\n"
    [record], _ = split(manifest(images, text))
    assert record.image_id == "1.2.8#0"
    assert (record.fields["modality"], record.fields["rows"]) == ("xray", 8)
    assert record.patient is not None
    assert (record.patient.patient_id, record.patient.name) == ("P7", f"{MARK}^Name")


def test_slices_named_one_by_one_are_not_thinned_as_a_series(images):
    for i in range(4):
        write(images / f"{i}.dcm", uid=f"1.2.{i}")
    path = images.parent / "m.csv"
    path.write_text("image\n" + "".join(f"{i}.dcm\n" for i in range(4)))
    policy = FramePolicy(max_per_series=2)
    assert len(split(open_source(path, image_root=images, policy=policy))[0]) == 4


def test_frames(images):
    write_volume(images / "v.nii.gz", np.arange(60, dtype=np.int16).reshape(2, 3, 10))
    path = images.parent / "m.csv"
    path.write_text("image,frame,organ\nv.nii.gz,7,liver\nv.nii.gz,3.0,lung\n0.png,,skin\n1.png,0,skin\n")
    records, _ = split(open_source(path, image_root=images))
    assert [record.name for record in records] == ["v.nii.gz#7", "v.nii.gz#3", "0.png", "1.png"]
    path.write_text("image\nv.nii.gz\n")
    source = open_source(path, image_root=images, policy=FramePolicy(max_per_file=2))
    assert [record.name for record in split(source)[0]] == ["v.nii.gz#2", "v.nii.gz#7"]
    assert source.counts.left_out == 8


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("9.png,", "no such file"),
        ("0.png/x,", "no such file"),
        ("../secret.png,", "leaves the image root"),
        ("/etc/passwd,", "leaves the image root"),
        ("a/../../secret.png,", "leaves the image root"),
        ("link.png,", "leaves the image root"),
        ("up/secret.png,", "leaves the image root"),
        (".,", "leaves the image root"),
        ("https://example.org/x.png,", "a URL"),
        (",3", "no image named"),
        ("0.png,1", "no frame 1"),
        ("0.png,x", "not a number"),
        ("0.png,-1", "not a number"),
        ("folder,", ""),
        ("notes.png,", "not a format"),
    ],
)
def test_a_bad_row_is_rejected_and_the_next_one_read(images, row, what):
    write_picture(images.parent / "secret.png")
    os.symlink(images.parent / "secret.png", images / "link.png")
    os.symlink(images.parent, images / "up")
    (images / "folder").mkdir()
    (images / "notes.png").write_text("no picture" * 60)
    records, [rejection] = split(manifest(images, f"image,frame\n{row}\n1.png,\n"))
    assert [record.relative_path for record in records] == ["1.png"]
    assert what in rejection.what
    assert rejection.hint


def test_a_row_named_twice(images):
    records, [rejection] = split(manifest(images, "image,organ\n0.png,a\n1.png,b\n./0.png,c\n"))
    assert len(records) == 2
    assert rejection.code == "manifest"
    assert "first in line 2 (m.csv, line 4)" in rejection.what


def test_a_frame_named_twice_in_two_ways(images):
    write_volume(images / "v.nii", np.arange(60, dtype=np.int16).reshape(2, 3, 10))
    text = "image,frame\nv.nii,\nv.nii,4\n0.png,0\n0.png,\n"
    records, rejections = split(manifest(images, text))
    assert len(records) == 11
    assert [one.name for one in rejections] == ["v.nii#4", "0.png"]


def test_paths_from_windows(images):
    write_picture(images / "sub" / "x.png")
    [record], _ = split(manifest(images, "image\nsub\\x.png\n"))
    assert record.relative_path == "sub/x.png"


def test_an_absolute_path_below_the_root(images):
    [record], _ = split(manifest(images, f"image\n{images.resolve() / '0.png'}\n"))
    assert record.relative_path == "0.png"


def test_control_characters_and_html_stay_data(images):
    [record], _ = split(manifest(images, "image,caption\n0.png,<script>\x07é\n"))
    assert record.fields["caption"] == "<script>\x07é"


def test_a_table_without_rows(images):
    with pytest.raises(ManifestError, match="no rows"):
        manifest(images, "image\n")


def test_what_is_wrong_shows_before_any_image_is_read(images):
    with pytest.raises(ManifestError, match="line 4"):
        manifest(images, "image,a\n0.png,1\n1.png,2\n2.png\n")


def test_no_such_image_root(images):
    with pytest.raises(ManifestError, match="no such image folder"):
        open_manifest(images.parent / "m.csv", image_root=images / "gone")


def test_tsv_and_parquet_say_the_same(images):
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = split(manifest(images, "image\torgan\tage\n0.png\tlung\t3\n", "m.tsv"))
    path = images.parent / "m.parquet"
    pq.write_table(pa.table({"image": ["0.png"], "organ": ["lung"], "age": [3]}), path)
    assert split(open_source(path, image_root=images)) == first


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data beside the project")
def test_a_real_manifest():
    data = SHARED
    source = open_source(data / "manifest.csv", image_root=data / "images")
    records = list(source)
    assert source.counts.rejected == 0
    assert source.counts.images == len(records) == 10_469
    with (data / "manifest.csv").open(newline="") as file:
        patients = [row["patient_or_study"] for row in csv.DictReader(file)]
    found = [record.patient.patient_id if record.patient else "" for record in records]
    assert found == patients
