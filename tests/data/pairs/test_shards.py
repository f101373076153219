"""WebDataset shards: written whole, gone on with, read back by us and by the webdataset library."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.pairs.made import make_pairs, picture_bytes, write_picture

from clinical_clip.data.pairs import Pair, PairSet, open_pairs
from clinical_clip.data.pairs.pixels import load_pair_pixels
from clinical_clip.data.pairs.read_shards import read_shard, verify_shards
from clinical_clip.data.pairs.shards import SHARDS_FILE, shard_names, write_shards
from clinical_clip.errors import ManifestError, OptionError, SourceError

SPLITS = ("train", "validation", "test")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.tar"))}


def test_every_pair_once_with_the_files_own_bytes(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "images", 11, splits=SPLITS)
    report = write_shards(pairs, tmp_path / "out", per_shard=2)
    assert (report.pairs, report.shards, report.written, report.left_out) == (11, 6, 6, ())
    found = {one.pair.pair_id: one for shard in shard_names(tmp_path / "out") for one in read_shard(shard)}
    assert found.keys() == {pair.pair_id for pair in pairs}
    for pair in pairs:
        assert found[pair.pair_id].image == pair.image.read_bytes()
        assert found[pair.pair_id].pair == replace(pair, image=Path())
    assert verify_shards(tmp_path / "out") == []


def test_the_same_plan_gives_the_same_bytes_and_another_seed_another_order(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "images", 10)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_shards(pairs, tmp_path / name, per_shard=5, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")
    order = [one.pair.pair_id for shard in shard_names(tmp_path / "a") for one in read_shard(shard)]
    assert order != [pair.pair_id for pair in pairs]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
            st.sampled_from(["", "train", "x/y", "a.b"]),
        ),
        min_size=1,
        max_size=7,
    ),
    st.integers(1, 4),
    st.integers(),
)
def test_round_trip(rows: list[tuple[str, str]], per_shard: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        image = write_picture(Path(folder) / "a.jpg")
        pairs = PairSet(
            name="made",
            pairs=tuple(
                Pair(pair_id=f"{text}{number}", image=image, caption=" ".join(text.split()), split=split)
                for number, (text, split) in enumerate(rows)
            ),
        )
        write_shards(pairs, Path(folder) / "out", per_shard=per_shard, seed=seed)
        back = [one.pair for shard in shard_names(Path(folder) / "out") for one in read_shard(shard)]
        key = lambda pair: pair.pair_id  # noqa: E731
        assert sorted(back, key=key) == sorted((replace(one, image=Path()) for one in pairs), key=key)


READ = """
import hashlib, json, sys
import webdataset
for image, caption, metadata in (
    webdataset.WebDataset(sys.argv[1:], shardshuffle=False).decode("rgb8").to_tuple("jpg;png", "txt", "json")
):
    digest = hashlib.sha256(image[..., 0].tobytes()).hexdigest()
    print(json.dumps([metadata["pair_id"], caption, metadata["cuis"], digest]))
"""


def test_the_webdataset_library_reads_them(tmp_path: Path) -> None:
    """In a process of its own: the library imports torch where it can, and leaves files open."""
    pairs = make_pairs(tmp_path / "images", 7, splits=("train", "test"))
    write_shards(pairs, tmp_path / "out", per_shard=2)
    urls = [str(shard) for shard in shard_names(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", READ, *urls], capture_output=True, text=True, check=True, timeout=120
    )
    found = sorted(json.loads(line) for line in done.stdout.splitlines())
    digests = {pair: hashlib.sha256(load_pair_pixels(pair).tobytes()).hexdigest() for pair in pairs}
    assert found == sorted([p.pair_id, p.caption, list(p.cuis), digest] for p, digest in digests.items())


def test_an_opened_folder_of_shards_is_the_same_set(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "images", 9, splits=SPLITS)
    write_shards(pairs, tmp_path / "out", per_shard=4)
    again = open_pairs(tmp_path / "out", images=tmp_path / "unpacked")
    assert {pair.pair_id: pair.image.read_bytes() for pair in again} == {
        pair.pair_id: pair.image.read_bytes() for pair in pairs
    }
    assert len(again.split("val")) == 3
    lone = next(shard_names(tmp_path / "out"))
    assert len(open_pairs(lone, images=tmp_path / "unpacked")) == len(list(read_shard(lone)))


def test_other_formats_go_in_as_the_pixels_that_training_sees(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "images", 2, suffix="tif")
    write_shards(pairs, tmp_path / "out")
    (shard,) = shard_names(tmp_path / "out")
    for one in read_shard(shard):
        pixels = cv2.imdecode(np.frombuffer(one.image, np.uint8), cv2.IMREAD_UNCHANGED)
        original = next(pair for pair in pairs if pair.pair_id == one.pair.pair_id)
        assert np.array_equal(pixels, load_pair_pixels(original))


def test_an_image_that_cannot_be_read_is_left_out_and_named(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "images", 4)
    pairs.pairs[1].image.unlink()
    pairs.pairs[2].image.write_bytes(b"no image")
    report = write_shards(pairs, tmp_path / "out", per_shard=4)
    assert report.pairs == 2
    assert {pair_id for pair_id, _ in report.left_out} == {"case/1.x", "case/2.x"}
    assert write_shards(pairs, tmp_path / "out", per_shard=4) == replace(report, written=0)


def test_only_what_is_not_whole_is_written_again(tmp_path: Path) -> None:
    pairs, out = make_pairs(tmp_path / "images", 12), tmp_path / "out"
    write_shards(pairs, out, per_shard=3)
    before = contents(out)
    names = sorted(before)
    (out / names[0]).unlink()
    (out / names[2]).write_bytes(before[names[2]][:-100] + bytes(99) + b"x")
    assert [problem.partition(":")[0] for problem in verify_shards(out)] == [names[0], names[2]]
    assert write_shards(pairs, out, per_shard=3).written == 2
    assert contents(out) == before
    assert verify_shards(out) == []


RUN = """
import sys, time
from pathlib import Path
from clinical_clip.data.pairs import open_pairs
from clinical_clip.data.pairs.shards import write_shards
def slow(done, total):
    print(done, flush=True)
    time.sleep(0.15)
write_shards(open_pairs(Path(sys.argv[1])), Path(sys.argv[2]), per_shard=2, progress=slow)
"""


@pytest.mark.parametrize("after", [1, 3])
def test_killed_and_run_again(tmp_path: Path, after: int) -> None:
    pairs = make_pairs(tmp_path / "set", 16)
    (tmp_path / "set" / "manifest.csv").write_text(
        "image,caption,split\n" + "".join(f"{pair.image.name},{pair.caption[:5]},train\n" for pair in pairs)
    )
    opened, out = open_pairs(tmp_path / "set"), tmp_path / "out"
    write_shards(opened, tmp_path / "whole", per_shard=2)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path / "set"), str(out)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while int(process.stdout.readline()) < after:
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=20)
    process.stdout.close()
    done = len(json.loads((out / SHARDS_FILE).read_text())["shards"])
    assert after <= done < 8
    assert "has not ended" in verify_shards(out)[0]
    assert write_shards(opened, out, per_shard=2).written == 8 - done
    assert contents(out) == contents(tmp_path / "whole")
    assert not list(out.rglob("*.tmp"))


def test_shards_of_another_plan_are_not_touched(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "images", 4)
    write_shards(pairs, tmp_path / "out", per_shard=2)
    before = contents(tmp_path / "out")
    for other, options in ((make_pairs(tmp_path / "images", 3), {"per_shard": 2}), (pairs, {"per_shard": 3})):
        with pytest.raises(ManifestError, match="other pairs or options"):
            write_shards(other, tmp_path / "out", **options)
    assert contents(tmp_path / "out") == before
    with pytest.raises(OptionError):
        write_shards(pairs, tmp_path / "out", per_shard=0)


def test_one_run_at_a_time(tmp_path: Path) -> None:
    from clinical_clip.data.samples.write import sole_builder

    with sole_builder(tmp_path / "out"), pytest.raises(SourceError, match="another build"):
        write_shards(make_pairs(tmp_path / "images", 2), tmp_path / "out")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"format": 9, "shards": []}', '{"format": 1, "shards": [{}]}']
)
def test_a_bad_manifest_of_shards(tmp_path: Path, text: str) -> None:
    (tmp_path / SHARDS_FILE).write_text(text)
    with pytest.raises(ManifestError, match=r"shards"):
        open_pairs(tmp_path, images=tmp_path / "unpacked")


def test_a_manifest_that_points_outside(tmp_path: Path) -> None:
    entry = {"name": "../x.tar", "bytes": 1, "sha256": "", "pairs": 1, "left_out": []}
    (tmp_path / SHARDS_FILE).write_text(json.dumps({"format": 1, "shards": [entry]}))
    with pytest.raises(ManifestError, match="not a manifest of shards"):
        list(shard_names(tmp_path))


def test_damaged_shards(tmp_path: Path) -> None:
    write_shards(make_pairs(tmp_path / "images", 3), tmp_path / "out")
    (shard,) = shard_names(tmp_path / "out")
    data = shard.read_bytes()
    shard.write_bytes(data[:700])
    with pytest.raises(ManifestError, match="a damaged shard"):
        list(read_shard(shard))
    shard.write_bytes(b"no tar at all" * 100)
    with pytest.raises(ManifestError, match="a damaged shard"):
        list(read_shard(shard))


def test_shards_of_others_have_no_metadata(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(picture_bytes())
    (tmp_path / "0.txt").write_text("A caption.")
    with tarfile.open(tmp_path / "train-000.tar", "w") as tar:
        for name in ("0.jpg", "0.txt"):
            tar.add(tmp_path / name, f"./folder/{name}")
    (one,) = read_shard(tmp_path / "train-000.tar", split="train")
    assert (one.pair.pair_id, one.pair.caption, one.pair.split) == ("train-000/0", "A caption.", "train")
    with tarfile.open(tmp_path / "y.tar", "w") as tar:
        tar.add(tmp_path / "0.txt", "0.txt")
    with pytest.raises(ManifestError, match=r"a sample without an image \(y.tar, 0\)"):
        list(read_shard(tmp_path / "y.tar"))
