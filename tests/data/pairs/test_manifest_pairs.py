"""Pairs out of tables; what a set of pairs says of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.data.pairs.made import NO_SHARED, SHARED, make_pairs, write_picture, write_table

from clinical_clip.data.pairs import Pair, PairSet, open_pairs
from clinical_clip.data.pairs.manifest import DEFAULT_PAIR_COLUMNS
from clinical_clip.data.pairs.pixels import load_pair_pixels, pair_record
from clinical_clip.errors import ImageRejected, ManifestError, OptionError


def row(image: str, **cells: str) -> dict[str, str]:
    empty = dict.fromkeys(("caption", "report", "label_text", "split", "patient_id", "cuis", "modality"), "")
    return {"image": image, **empty, **cells}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for number, name in enumerate("abcde"):
        write_picture(tmp_path / "images" / f"{name}.png", number)
    return write_table(
        tmp_path / "manifest.csv",
        [
            row(
                "a.png", caption="  A  mass.", split="train", patient_id="p1", cuis="C1 C2;C3", modality="ct"
            ),
            row("b.png", report="Long report.", split="val", patient_id="p2"),
            row("c.png", label_text="CT of the chest.", split="test", patient_id="p3"),
            row("d.png", split="train"),
            row("gone.png", caption="Lost.", split="train"),
            row("../../etc/passwd", caption="Escapes."),
            row("", caption="No image."),
            row("a.png", caption="Again."),
            row("http://host/e.png", caption="A URL."),
        ],
    )


def test_rows_become_pairs(table: Path) -> None:
    pairs = open_pairs(table)
    (pair,) = pairs
    assert (pair.pair_id, pair.caption, pair.article, pair.split) == ("a.png", "A mass.", "p1", "train")
    assert (pair.cuis, dict(pair.labels)) == (("C1", "C2", "C3"), {"modality": "ct"})
    assert pairs.missing == ("gone.png",)
    assert pairs.uncaptioned == 3
    assert [str(one) for one in pairs.problems] == [
        "manifest.csv, line 7: a path that leaves the image root",
        "manifest.csv, line 8: no image named",
        "manifest.csv, line 9: an id that line 2 has: left out",
        "manifest.csv, line 10: a URL, which is never fetched",
    ]


def test_the_folder_stands_for_its_manifest(table: Path) -> None:
    assert open_pairs(table.parent).digest == open_pairs(table).digest


def test_reports_only_when_asked(table: Path) -> None:
    columns = replace(DEFAULT_PAIR_COLUMNS, text=("caption", "report"))
    pairs = open_pairs(table, columns=columns)
    assert [pair.caption for pair in pairs] == ["A mass.", "Long report."]
    assert pairs.pairs[1].labels["caption_source"] == "report"
    assert pairs.n_synthetic == 0


def test_made_captions_only_when_asked_and_marked(table: Path) -> None:
    pairs = open_pairs(table, synthetic=True)
    assert [pair.synthetic for pair in pairs] == [False, True]
    assert pairs.n_synthetic == 1
    assert pairs.pairs[1].labels["caption_source"] == "label_text"


def test_a_caption_that_its_table_calls_unreal_is_marked(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    rows = [{"image": "a.png", "caption": "Template.", "caption_is_real": "0"}]
    assert open_pairs(write_table(tmp_path / "t.csv", rows)).n_synthetic == 1


def test_images_without_captions_can_be_asked_for(table: Path) -> None:
    assert len(open_pairs(table, require_captions=False)) == 4
    assert len(open_pairs(table, require_captions=False, require_images=False)) == 5


def test_frames_are_images_of_their_own(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.tif")
    rows = [{"image": "a.tif", "frame": frame, "caption": "x"} for frame in ("0", "1", "one")]
    pairs = open_pairs(write_table(tmp_path / "t.csv", rows))
    assert [(pair.pair_id, pair.frame) for pair in pairs] == [("a.tif#0", 0), ("a.tif#1", 1)]
    assert "not a number" in pairs.problems[0].what


def test_a_row_with_too_few_cells_is_listed(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("image,caption\na.png,fine\nb.png\na.png,x,y\n")
    pairs = open_pairs(tmp_path / "t.csv")
    assert len(pairs) == 1
    assert [str(one) for one in pairs.problems] == [
        "t.csv, line 3: 1 cells under 2 columns",
        "t.csv, line 4: 3 cells under 2 columns",
    ]


def test_errors_name_what_is_there(table: Path, tmp_path: Path) -> None:
    columns = replace(DEFAULT_PAIR_COLUMNS, text=("finding",))
    with pytest.raises(ManifestError, match=r"no column 'finding'.*there are: image, caption, report"):
        open_pairs(table, columns=columns)
    with pytest.raises(ManifestError, match="no pairs in split 'fold9'"):
        open_pairs(table, split="fold9")
    with pytest.raises(ManifestError, match="there are: train"):
        open_pairs(table).split("test")
    with pytest.raises(OptionError, match="no kind 'coco'"):
        open_pairs(table, kind="coco")
    with pytest.raises(OptionError, match="no group"):
        open_pairs(table, group="x")
    with pytest.raises(ManifestError, match="no such image folder"):
        open_pairs(table, images=tmp_path / "nowhere")
    with pytest.raises(ManifestError, match="no such file or folder"):
        open_pairs(tmp_path / "nowhere")


def test_the_digest_follows_ids_and_captions_and_their_order(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path, 3)
    assert pairs.digest == make_pairs(tmp_path, 3).digest
    first, second, third = pairs
    assert replace(pairs, pairs=(second, first, third)).digest != pairs.digest
    assert replace(pairs, pairs=(replace(first, caption="x"), second, third)).digest != pairs.digest
    assert replace(pairs, pairs=(replace(first, licence="x"), second, third)).digest == pairs.digest
    shifted = [Pair(pair_id=a, caption=b, image=Path()) for a, b in (("ab", "c"), ("a", "bc"))]
    assert len({PairSet(name="", pairs=(one,)).digest for one in shifted}) == 2


def test_nothing_that_may_name_a_patient_is_shown() -> None:
    pair = Pair(
        pair_id="x.png", image=Path("/ward/doe.png"), caption="Mr Doe", article="p-77", labels={"k": "Doe"}
    )
    for shown in (repr(pair), repr(PairSet(name="n", pairs=(pair,)))):
        assert "Doe" not in shown
        assert "doe" not in shown
        assert "p-77" not in shown


def test_pixels_of_a_pair(tmp_path: Path) -> None:
    (pair,) = make_pairs(tmp_path, 1, suffix="png")
    assert load_pair_pixels(pair).shape == (12, 12)
    with pytest.raises(ImageRejected, match="no image file"):
        pair_record(replace(pair, image=Path()))
    with pytest.raises(ImageRejected, match="cannot be read"):
        pair_record(replace(pair, image=tmp_path / "gone.png"))


@pytest.mark.skipif(not (SHARED / "manifest.csv").is_file(), reason=NO_SHARED)
def test_the_real_manifest() -> None:
    pairs = open_pairs(SHARED / "manifest.csv")
    assert (len(pairs), pairs.uncaptioned, len(pairs.missing), len(pairs.problems)) == (3232, 7237, 0, 0)
    assert pairs.splits == ("train", "validation", "test")
    assert pairs.n_synthetic == 0
    assert all(pair.article for pair in pairs)
    assert load_pair_pixels(pairs.pairs[0]).ndim in (2, 3)
    everything = open_pairs(SHARED, synthetic=True)
    assert (len(everything), everything.n_synthetic) == (10469, 7237)
