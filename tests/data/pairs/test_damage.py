"""Bytes changed at random: a set opens, or a typed error says why; nothing else is ever raised."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.data.pairs.made import make_pairs, picture_bytes, write_picture, write_roco_split, write_table

from clinical_clip.data.pairs import open_pairs
from clinical_clip.data.pairs.shards import write_shards
from clinical_clip.errors import ClinicalClipError


def make_roco(folder: Path) -> None:
    write_roco_split(folder / "test" / "radiology", ["ROCO_00001", "ROCO_00002", "ROCO_00003"])


def make_shards(folder: Path) -> None:
    write_shards(make_pairs(folder.parent / "made", 6, splits=("train", "test")), folder, per_shard=3)


def make_manifest(folder: Path) -> None:
    for number in range(3):
        write_picture(folder / f"{number}.jpg", number)
    rows = [{"image": f"{n}.jpg", "caption": '"x", y', "frame": "0", "cuis": "C1"} for n in range(3)]
    write_table(folder / "manifest.csv", rows)


def make_parquet(folder: Path) -> None:
    folder.mkdir()
    images = [{"bytes": picture_bytes(number), "path": "a.jpg"} for number in range(4)]
    pq.write_table(pa.table({"image": pa.array(images), "caption": list("abcd")}), folder / "train-0.parquet")


def mutate(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(changed) + 1)
        kind = rng.random()
        if kind < 0.5 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif kind < 0.75:
            del changed[at : at + rng.randint(1, 30)]
        else:
            changed[at:at] = rng.randbytes(rng.randint(1, 8))
    return bytes(changed)


@pytest.mark.parametrize(
    ("kind", "make"),
    [("roco", make_roco), ("shards", make_shards), ("manifest", make_manifest), ("parquet", make_parquet)],
)
def test_opens_or_says_why(tmp_path: Path, kind: str, make: Callable[[Path], None]) -> None:
    rng = random.Random(kind)
    make(tmp_path / "set")
    files = sorted(path for path in (tmp_path / "set").rglob("*") if path.is_file())
    images = tmp_path / "unpacked" if kind in ("shards", "parquet") else None
    whole = len(open_pairs(tmp_path / "set", kind=kind, images=images, require_images=False))
    outcomes: list[int | str] = []
    for _ in range(60):
        file = rng.choice(files)
        data = file.read_bytes()
        file.write_bytes(mutate(data, rng))
        try:
            opened = open_pairs(tmp_path / "set", kind=kind, images=images, require_images=False)
            outcomes.append(len(opened))
        except ClinicalClipError as error:
            outcomes.append(error.hint)
        file.write_bytes(data)
    assert all(one if isinstance(one, str) else one <= whole + 6 for one in outcomes)
    assert any(isinstance(one, int) for one in outcomes)
    assert len(open_pairs(tmp_path / "set", kind=kind, images=images, require_images=False)) == whole


def test_one_bad_sample_costs_no_other(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "images", 5)
    write_shards(pairs, tmp_path / "set")
    shard = next((tmp_path / "set").rglob("*.tar"))
    shard.write_bytes(shard.read_bytes().replace(b'{"article": "PMC1"', b'["article": "PMC1"', 1))
    opened = open_pairs(tmp_path / "set", images=tmp_path / "unpacked")
    assert len(opened) == 4
    assert [one.what for one in opened.problems] == ["unreadable metadata (JSONDecodeError)"]
