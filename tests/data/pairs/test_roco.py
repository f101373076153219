"""ROCO: the real files, and made ones with every kind of damage."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.data.pairs.made import NO_SHARED, SHARED, write_picture, write_roco_split

from clinical_clip.data.pairs import PairSet, open_pairs
from clinical_clip.data.pairs.roco import find_roco
from clinical_clip.data.pairs.split import overlaps
from clinical_clip.errors import ManifestError

real = pytest.mark.skipif(not (SHARED / "roco").is_dir(), reason=NO_SHARED)


def test_the_real_test_and_validation_files(real_roco: PairSet) -> None:
    pairs = real_roco
    assert pairs.splits == ("validation", "test")
    assert not pairs.problems
    test, validation = pairs.split("test"), pairs.split("val")
    assert (len(test), len(validation)) == (8179, 8180)
    assert sum(not pair.cuis for pair in test) == 173
    assert all(pair.licence and re.fullmatch(r"PMC[0-9]+", pair.article) for pair in pairs)
    codes = {code for pair in pairs for code, _ in pair.semtypes}
    assert all(re.fullmatch(r"T[0-9]{3}", code) for code in codes)
    assert all(re.fullmatch(r"C[0-9]{7}", cui) for pair in pairs for cui in pair.cuis)


def test_the_query_of_the_slides(real_roco: PairSet) -> None:
    pairs = {pair.pair_id: pair for pair in real_roco.split("test")}
    pair = pairs["ROCO_00006"]
    assert pair.caption.startswith(
        "Coronal plain computed tomography image showing multiple large tumor masses"
    )
    assert pair.cuis[:2] == ("C0040395", "C0011334")
    assert pair.semtypes[1] == ("T047", "Disease or Syndrome")
    assert (pair.article, pair.licence, pair.keywords[0]) == ("PMC4840839", "CC BY-NC-ND", "tumor")


def test_every_field_of_the_real_cuis_file_is_read(real_roco: PairSet) -> None:
    """Against a reading by other means: all tokens of the form C0000000 in the file."""
    text = (SHARED / "roco" / "test.cuis.txt").read_text(encoding="utf-8")
    pairs = real_roco.split("test")
    for line, pair in zip(text.splitlines(), pairs, strict=True):
        assert set(re.findall(r"\bC[0-9]{7}\b", line)) == set(pair.cuis)


def test_articles_in_both_validation_and_test(real_roco: PairSet) -> None:
    pairs = real_roco
    (one,) = overlaps(pairs, {pair.pair_id: pair.article for pair in pairs})
    links = {
        split: re.findall(r"/(PMC[0-9]+)\.tar", (SHARED / "roco" / f"{split}.dlinks.txt").read_text())
        for split in ("validation", "test")
    }
    both = set(links["validation"]) & set(links["test"])
    assert (
        (one.first, one.second, one.shared)
        == ("validation", "test", len(both))
        == ("validation", "test", 1195)
    )
    assert one.second_pairs == sum(article in both for article in links["test"])


@real
def test_real_files_without_images_are_an_error_that_says_how_many() -> None:
    with pytest.raises(ManifestError, match="none of the 8,179 captioned images"):
        open_pairs(SHARED / "roco", split="test")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The repository's layout, with images of one group under both names, and one lacking."""
    for number, split in enumerate(("train", "validation", "test")):
        folder = tmp_path / "data" / split / "radiology"
        ids = [f"ROCO_{10 * number + one:05d}" for one in range(4)]
        write_roco_split(folder, ids)
        write_picture(folder / "images" / "PMC100_fig-0.jpg")
        write_picture(folder / "images" / "PMC100_fig-1.jpg", 1)
        write_picture(folder / "images" / f"{ids[2]}.png", 2)
        write_roco_split(tmp_path / "data" / split / "non-radiology", [f"ROCO_9{number}000"], article="PMC9")
        write_picture(tmp_path / "data" / split / "non-radiology" / "images" / "PMC9100_fig-0.jpg")
    return tmp_path


def test_a_clone_of_the_repository(clone: Path) -> None:
    pairs = open_pairs(clone)
    assert pairs.splits == ("train", "validation", "test")
    assert (len(pairs), len(pairs.split("train"))) == (9, 3)
    assert pairs.missing == ("ROCO_00003", "ROCO_00013", "ROCO_00023")
    assert not pairs.problems
    first, second, third = pairs.split("train")
    assert first.image.name == "PMC100_fig-0.jpg"
    assert (first.cuis, second.cuis) == ((), ("C0040405", "C0011334"))
    assert first.semtypes == (("T060", "Diagnostic Procedure"), ("T033", "Finding"))
    assert (third.image.name, third.caption) == ("ROCO_00002.png", "Axial CT of case ROCO_00002.")


@pytest.mark.parametrize("inside", [".", "data", "data/test", "data/test/radiology"])
def test_any_folder_of_the_clone_may_be_given(clone: Path, inside: str) -> None:
    assert len(open_pairs(clone / inside, split="test")) == 3


def test_groups(clone: Path) -> None:
    assert len(open_pairs(clone, group="non-radiology")) == 3
    everything = open_pairs(clone, group="all")
    assert len(everything) == 12
    assert {pair.labels["group"] for pair in everything} == {"radiology", "non-radiology"}


def test_flat_files_with_images_elsewhere(tmp_path: Path) -> None:
    write_roco_split(tmp_path / "meta", ["ROCO_00001", "ROCO_00002"], prefix="test.")
    write_picture(tmp_path / "pictures" / "test" / "PMC100_fig-1.jpg")
    pairs = open_pairs(tmp_path / "meta", images=tmp_path / "pictures")
    assert [pair.pair_id for pair in pairs] == ["ROCO_00002"]
    assert pairs.missing == ("ROCO_00001",)


def damage(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new", "where", "what"),
    [
        ("captions", b"ROCO_00002\t", b"ROCO_00002 ", "captions.txt, line 3", "no tab"),
        ("captions", b"ROCO_00002\t", b"\t", "captions.txt, line 3", "no id"),
        ("captions", b"ROCO_00002\t Axial", b"ROCO_00002\t \xe9xial", "captions.txt, line 3", "not UTF-8"),
        ("captions", b"ROCO_00002\t Axial", b"ROCO_00002\t A\0ial", "captions.txt, line 3", "NUL"),
        ("captions", b"ROCO_00002\t", b"ROCO_00001\t", "captions.txt, line 3", "an earlier line has"),
        ("semtypes", b"\tT033\tFinding\n", b"\tT033\n", "semtypes.txt, ROCO_00000", "a code without a name"),
        ("licences", b"ROCO_00001,", b"ROCO_00001;", "licences.txt, line 3", "2 cells instead of 3"),
        ("dlinks", b"/PMC100.tar.gz", b"/nothing", "dlinks.txt, ROCO_00000", "no PMC package"),
        ("dlinks", b"fig-0.jpg", b"../../../../up.jpg", "dlinks.txt, ROCO_00000", "leaves the image root"),
        ("cuis", b"ROCO_00002\t", b"ROCO_77777\t", "cuis.txt, ROCO_00002", "1 captioned ids are not in it"),
        ("cuis", b"ROCO_00002\t", b"ROCO_77777\t", "cuis.txt, ROCO_77777", "1 ids of it have no caption"),
    ],
)
def test_a_bad_row_is_listed_and_the_rest_is_read(
    tmp_path: Path, name: str, old: bytes, new: bytes, where: str, what: str
) -> None:
    write_roco_split(tmp_path / "test" / "radiology", [f"ROCO_0000{one}" for one in range(4)])
    damage(tmp_path / "test" / "radiology" / f"{name}.txt", old, new)
    pairs = open_pairs(tmp_path, require_images=False)
    assert len(pairs) == (3 if name == "captions" else 4)
    assert any(one.where == where and what in one.what for one in pairs.problems), pairs.problems


def test_an_image_outside_the_root_is_never_used(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "test" / "radiology"
    write_roco_split(folder, ["ROCO_00001"])
    secret = write_picture(tmp_path / "secret.jpg")
    (folder / "images").mkdir()
    (folder / "images" / "ROCO_00001.jpg").symlink_to(secret)
    assert open_pairs(tmp_path / "set", require_images=False).missing == ("ROCO_00001",)


def test_a_missing_metadata_file_is_listed(tmp_path: Path) -> None:
    folder = tmp_path / "test" / "radiology"
    write_roco_split(folder, ["ROCO_00001"])
    (folder / "semtypes.txt").unlink()
    pairs = open_pairs(tmp_path, require_images=False)
    assert [one.what for one in pairs.problems] == ["no semtypes file"]


def test_captions_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "test" / "radiology"
    write_roco_split(folder, ["ROCO_00001"])
    (folder / "captions.txt").write_text("ROCO_1\t caption", encoding="utf-16")
    with pytest.raises(ManifestError, match=r"UTF-16 text \(captions.txt, line 1\)"):
        open_pairs(tmp_path, require_images=False)
    (folder / "captions.txt").write_text("no tabs here\n")
    with pytest.raises(ManifestError, match="no usable caption"):
        open_pairs(tmp_path, require_images=False)


def test_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    folder = tmp_path / "test" / "radiology"
    write_roco_split(folder, ["ROCO_00001", "ROCO_00002"])
    for path in folder.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    pairs = open_pairs(tmp_path, require_images=False)
    assert not pairs.problems
    assert [pair.pair_id for pair in pairs] == ["ROCO_00001", "ROCO_00002"]
    assert pairs.pairs[1].semtypes[-1] == ("T033", "Finding")
    assert pairs.pairs[0].licence == "CC BY"


def test_what_is_no_roco(tmp_path: Path) -> None:
    assert find_roco(tmp_path) == []
    with pytest.raises(ManifestError, match="no data set of a known kind"):
        open_pairs(tmp_path)
    with pytest.raises(ManifestError, match="no captions file of ROCO"):
        open_pairs(tmp_path, kind="roco")
