"""``data check``, ``data split``, ``data shards``: what they say of sets made to be faulty."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.data.pairs.made import write_picture, write_roco_split, write_table
from typer.testing import CliRunner

from clinical_clip.cli.data import data_app
from clinical_clip.data.pairs import PairSet, open_pairs
from clinical_clip.data.pairs.check import check_pairs
from clinical_clip.data.pairs.digests import look_alikes, perceptual_hash
from clinical_clip.data.pairs.tokens import clip_counter
from clinical_clip.errors import ManifestError

LONG = "lung " * 80


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Two copies of one image, a resized one, equal captions, a patient in two splits, a lost file."""
    images = tmp_path / "images"
    rng = np.random.default_rng(0)
    big = cv2.resize(rng.integers(0, 256, (6, 6), dtype=np.uint8), (128, 128), interpolation=cv2.INTER_CUBIC)
    images.mkdir()
    cv2.imwrite(str(images / "a.png"), big)
    cv2.imwrite(str(images / "a-small.png"), cv2.resize(big, (64, 64), interpolation=cv2.INTER_AREA))
    (images / "a-copy.png").write_bytes((images / "a.png").read_bytes())
    write_picture(images / "d.png", 7)
    write_picture(images / "e.png", 8)
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    rows = [
        ("a.png", "A chest.", "train", "p1", "CC BY", "C1"),
        ("a-copy.png", "a  chest", "test", "p2", "CC BY", ""),
        ("a-small.png", LONG, "validation", "p3", "", "C2"),
        ("d.png", "Normal.", "train", "p4", "CC BY", "C1"),
        ("e.png", "Mass.", "test", "p4", "CC0", "C1"),
        ("broken.png", "Broken one.", "train", "p5", "CC0", "C1"),
        ("gone.png", "Gone.", "train", "p6", "CC0", "C1"),
        ("e.png", "", "train", "p7", "", ""),
    ]
    names = ("image", "caption", "split", "patient_id", "licence", "cuis")
    table = [dict(zip(names, row, strict=True)) | {"id": str(n)} for n, row in enumerate(rows)]
    return write_table(tmp_path / "manifest.csv", table)


def test_every_fault_is_counted(faulty: Path) -> None:
    pairs = open_pairs(faulty, require_images=False)
    report = check_pairs(pairs, compare_pixels=True)
    assert (report.pairs, report.found, report.missing, report.uncaptioned) == (7, 6, ("6",), 1)
    assert report.splits == {"train": 4, "validation": 1, "test": 2}
    assert report.lengths is not None
    assert (report.lengths.minimum, report.lengths.median, report.lengths.maximum) == (1, 2, 80)
    assert (report.same_captions.groups, report.same_captions.examples) == (1, (("0", "1"),))
    assert report.same_images is not None
    assert report.same_images.examples == (("0", "1"),)
    assert report.similar_images is not None
    assert report.similar_images.examples == (("0", "1", "2"),)
    assert report.licences == {"CC BY": 3, "CC0": 3, "not stated": 1}
    assert report.without_cuis == {"test": 1}
    assert [one.where for one in report.problems] == ["5"]
    assert not report.clean


def test_every_leak_is_found(faulty: Path) -> None:
    report = check_pairs(open_pairs(faulty, require_images=False), compare_pixels=True)
    leaks = {
        (name, one.first, one.second) for name, each in report.leaks.items() for one in each if one.shared
    }
    assert leaks == {
        ("article", "train", "test"),
        ("caption", "train", "test"),
        ("image", "train", "test"),
        ("similar image", "train", "validation"),
        ("similar image", "train", "test"),
        ("similar image", "validation", "test"),
    }


def test_truncation_at_each_limit(faulty: Path) -> None:
    report = check_pairs(open_pairs(faulty, require_images=False))
    clip, bert, long_bert = report.truncation
    assert (clip.tower, clip.limit, clip.truncated) == ("CLIP text", 77, 1)
    assert clip.share == pytest.approx(1 / 7)
    tokens = clip_counter().count([LONG.strip()])[0]
    assert tokens > 77
    assert clip.lost == pytest.approx(
        (tokens - 77)
        / sum(clip_counter().count([pair.caption for pair in open_pairs(faulty, require_images=False)]))
    )
    assert (bert.limit, bert.truncated, long_bert.limit, long_bert.truncated) == (256, 0, 512, 0)


def test_a_clean_set_is_called_clean(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    rows = [{"image": "a.png", "caption": "x", "split": "train", "licence": "CC0"}]
    report = check_pairs(open_pairs(write_table(tmp_path / "t.csv", rows), require_images=False))
    assert report.clean
    assert report.leaks["article"] == ()


def test_hashes_of_pictures() -> None:
    rng = np.random.default_rng(3)
    base = cv2.resize(rng.integers(0, 256, (8, 8), dtype=np.uint8), (200, 200), interpolation=cv2.INTER_CUBIC)
    other = cv2.resize(
        rng.integers(0, 256, (8, 8), dtype=np.uint8), (200, 200), interpolation=cv2.INTER_CUBIC
    )

    def far(one: int, two: int) -> int:
        return (one ^ two).bit_count()

    code = perceptual_hash(base)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", base, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_GRAYSCALE)
    assert far(code, perceptual_hash(jpeg)) <= 4
    assert far(code, perceptual_hash(cv2.cvtColor(base, cv2.COLOR_GRAY2RGB))) <= 1
    assert far(code, perceptual_hash(other)) > 16
    assert 0 <= perceptual_hash(np.zeros((1, 1), np.uint8)) < 2**64


def test_look_alikes_by_hand() -> None:
    groups = look_alikes(
        {"a": 0, "b": 0b1111, "c": 0b11111111, "d": 2**63, "e": 0b1111 << 40 | 0b11111111, "f": 2**50 - 1}
    )
    assert groups.keys() == {"a", "b", "c", "d", "e"}
    assert len(set(groups.values())) == 1
    assert look_alikes({}) == {}


def test_the_command_as_json_and_as_a_table(faulty: Path) -> None:
    done = CliRunner().invoke(data_app, ["check", str(faulty), "--json", "--phash"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["missing"] == ["6"]
    assert report["clean"] is False
    assert report["leaks"]["image"][1]["shared"] == 1
    shown = CliRunner().invoke(data_app, ["check", str(faulty), "--no-tower-limits", "--no-hashes"])
    assert "images missing" in shown.stdout
    assert "CLIP text" not in shown.stdout
    assert "A chest" not in shown.stdout
    assert "p4" not in shown.stdout


def test_strict(faulty: Path, tmp_path: Path) -> None:
    assert CliRunner().invoke(data_app, ["check", str(faulty), "--strict"]).exit_code == 1
    write_picture(tmp_path / "clean" / "a.png")
    table = write_table(tmp_path / "clean" / "t.csv", [{"image": "a.png", "caption": "x"}])
    assert CliRunner().invoke(data_app, ["check", str(table), "--strict"]).exit_code == 0


def test_split_then_shards(faulty: Path, tmp_path: Path) -> None:
    splits, out = tmp_path / "s.csv", tmp_path / "shards"
    done = CliRunner().invoke(data_app, ["split", str(faulty), "--out", str(splits), "--keep"])
    assert done.exit_code == 0, done.output
    assert "before: train and test share 1 groups" in done.stderr
    assert "1 pairs dropped" in done.stderr
    packed = CliRunner().invoke(
        data_app, ["shards", str(faulty), "--out", str(out), "--splits", str(splits), "--per-shard", "2"]
    )
    assert packed.exit_code == 0, packed.output
    assert "4 pairs in 3 shards, 3 of them new, 1 images could not be read" in packed.stderr
    again = CliRunner().invoke(
        data_app, ["check", str(out), "--images", str(tmp_path / "unpacked"), "--json"]
    )
    assert json.loads(again.stdout)["splits"] == {"train": 1, "validation": 1, "test": 2}


def test_a_new_split_names_what_has_no_group(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    table = write_table(tmp_path / "t.csv", [{"image": "a.png", "caption": "x"}])
    done = CliRunner().invoke(data_app, ["split", str(table), "--out", str(tmp_path / "s.csv")])
    assert "1 pairs name no article, study or patient" in done.stderr


def test_roco_in_small(tmp_path: Path) -> None:
    write_roco_split(tmp_path / "test" / "radiology", [f"ROCO_0000{n}" for n in range(4)])
    write_picture(tmp_path / "test" / "radiology" / "images" / "ROCO_00001.jpg")
    done = CliRunner().invoke(data_app, ["check", str(tmp_path), "--json"])
    report = json.loads(done.stdout)
    assert (report["found"], len(report["missing"]), report["without_cuis"]) == (1, 3, {"test": 1})


def test_the_command_passes_typed_errors_on(tmp_path: Path) -> None:
    done = CliRunner().invoke(data_app, ["check", str(tmp_path / "nowhere")])
    assert isinstance(done.exception, ManifestError)


def test_the_real_roco_captions(real_roco: PairSet) -> None:
    """Counted with CLIP's vocabulary; the same captions through open_clip gave the same number."""
    report = check_pairs(real_roco)
    assert len(report.missing) == 16359
    assert report.without_cuis == {"validation": 183, "test": 173}
    assert [one.shared for one in report.leaks["article"]] == [1195]
    assert report.same_images is None
    clip = report.truncation[0]
    if clip.exact:
        assert clip.truncated == 854
