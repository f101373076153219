"""Parquet files with the images inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.data.pairs.made import picture_bytes, write_picture

from clinical_clip.data.pairs import open_pairs
from clinical_clip.data.pairs.pixels import load_pair_pixels
from clinical_clip.errors import ManifestError, StoreError

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path: Path, images: list[Any], image_type: Any = STRUCT, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {
        "image": pa.array(images, image_type),
        **{name: pa.array(values) for name, values in columns.items()},
    }
    pq.write_table(pa.table(table), path, row_group_size=2)
    return path


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """As the hub lays out ROCOv2: a struct of bytes and path, concepts as lists, a file a split."""
    for number, split in enumerate(("train", "validation", "test")):
        write(
            tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet",
            [{"bytes": picture_bytes(10 * number + one), "path": f"{one}.jpg"} for one in range(3)],
            image_id=[f"{split}_{one}" for one in range(3)],
            caption=[f" Caption {one} " for one in range(3)],
            cui=[["C1", "C2"], [], ["C3"]],
        )
    return tmp_path / "hub"


def test_a_copy_of_a_hub(copy: Path, tmp_path: Path) -> None:
    pairs = open_pairs(copy, images=tmp_path / "cache")
    assert pairs.splits == ("train", "validation", "test")
    assert len(pairs) == 9
    first = pairs.pairs[0]
    assert (first.pair_id, first.caption, first.cuis) == ("train_0", "Caption 0", ("C1", "C2"))
    assert first.image.read_bytes() == picture_bytes(0)
    assert first.image.is_relative_to(tmp_path / "cache")
    assert load_pair_pixels(first).shape == (12, 12)


def test_a_second_opening_reads_no_pixels(copy: Path, tmp_path: Path) -> None:
    first = open_pairs(copy, images=tmp_path / "cache")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    second = open_pairs(copy, images=tmp_path / "cache")
    assert second == first
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_what_the_cache_has_lost_is_unpacked_again(copy: Path, tmp_path: Path) -> None:
    first = open_pairs(copy, images=tmp_path / "cache")
    first.pairs[4].image.unlink()
    index = next((tmp_path / "cache" / "tables").iterdir())
    index.write_text("{not json")
    assert open_pairs(copy, images=tmp_path / "cache") == first
    assert first.pairs[4].image.read_bytes() == picture_bytes(11)


def test_only_the_files_of_the_split_are_unpacked(copy: Path, tmp_path: Path) -> None:
    assert len(open_pairs(copy, split="val", images=tmp_path / "cache")) == 3
    assert len(list((tmp_path / "cache").rglob("*.jpg"))) == 3


def test_plain_bytes_and_other_names(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.parquet",
        [picture_bytes(1, "png"), picture_bytes(2, "png")],
        pa.binary(),
        text=["a", "b"],
        modality=["ct", None],
        split=["test", "test"],
    )
    pairs = open_pairs(path, images=tmp_path / "cache")
    assert [pair.pair_id for pair in pairs] == ["x#1", "x#2"]
    assert pairs.pairs[0].labels == {"modality": "ct", "split": "test"}
    assert pairs.splits == ("test",)
    assert pairs.pairs[0].image.suffix == ".png"


def test_images_that_are_none_are_listed(tmp_path: Path) -> None:
    write_picture(tmp_path / "beside.jpg")
    path = write(
        tmp_path / "x.parquet",
        [
            {"bytes": b"GARBAGE", "path": None},
            {"bytes": None, "path": "beside.jpg"},
            {"bytes": None, "path": "../gone.jpg"},
            None,
            {"bytes": picture_bytes(), "path": None},
        ],
        caption=list("abcde"),
    )
    pairs = open_pairs(path, images=tmp_path / "cache")
    assert [pair.caption for pair in pairs] == ["b", "e"]
    assert pairs.pairs[0].image == tmp_path / "beside.jpg"
    assert pairs.missing == ("x#1", "x#3", "x#4")
    assert [one.where for one in pairs.problems] == ["x.parquet, row 1", "x.parquet, row 4"]


def test_typed_errors(copy: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"PAR1 no")
    with pytest.raises(ManifestError, match="not a Parquet table"):
        open_pairs(bad, kind="parquet", images=tmp_path / "c")
    lone = write(tmp_path / "lone.parquet", [{"bytes": picture_bytes(), "path": None}], finding=["x"])
    with pytest.raises(ManifestError, match="no column of captions"):
        open_pairs(lone, images=tmp_path / "c")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        open_pairs(copy, images=tmp_path / "file" / "below")


def test_a_damaged_page_is_a_typed_error(tmp_path: Path) -> None:
    images = [{"bytes": picture_bytes(one, side=64), "path": None} for one in range(8)]
    path = write(tmp_path / "x.parquet", images, caption=list("abcdefgh"))
    data = bytearray(path.read_bytes())
    data[4:2000] = bytes(1996)
    path.write_bytes(data)
    with pytest.raises(ManifestError, match="damaged Parquet"):
        open_pairs(path, images=tmp_path / "cache")


def test_a_table_without_pixels_is_a_manifest(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    pq.write_table(pa.table({"image": ["a.png"], "caption": ["x"]}), tmp_path / "m.parquet")
    assert [pair.pair_id for pair in open_pairs(tmp_path / "m.parquet")] == ["a.png"]
