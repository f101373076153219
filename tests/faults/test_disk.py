"""Full and read-only disks: named, nothing acknowledged lost, searching goes on."""

from __future__ import annotations

import gc
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from clinical_clip.errors import StoreError
from clinical_clip.index import Library
from clinical_clip.search import Query, search
from tests.faults import child
from tests.index.make import create, record, unit

WIDTH = 512


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A small file system of its own; ``disk("size=4m")`` mounts or remounts it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("NOT TESTED: full and read-only disks need the mount command")
        if done.returncode:
            pytest.skip(f"NOT TESTED: full and read-only disks need leave to mount ({done.stderr.strip()})")
        return folder

    yield mount
    while folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_up(library: Library, numbers: Iterator[int], *, batch: int = 16) -> list[str]:
    """Add until the disk refuses; the ids that were acknowledged."""
    acknowledged: list[str] = []
    while True:
        chosen = [next(numbers) for _ in range(batch)]
        vectors = unit(batch, width=WIDTH, seed=chosen[0])
        try:
            library.add([(record(n), vector) for n, vector in zip(chosen, vectors, strict=True)])
        except StoreError as error:
            assert "full" in error.what or "refuses" in error.what  # noqa: PT017
            assert error.hint  # noqa: PT017
            return acknowledged
        acknowledged += [record(n).image_id for n in chosen]


@pytest.mark.parametrize("room_kb", [0, 4, 40, 300])
def test_a_full_disk(disk: Callable[[str], Path], room_kb: int) -> None:
    folder = disk("size=4m") / "lib"
    numbers = iter(range(1_000_000))
    library = create(folder, width=WIDTH)
    filler = folder.parent / "filler"
    filler.write_bytes(bytes(2_500_000 - 1000 * room_kb))
    acknowledged = fill_up(library, numbers)
    acknowledged += fill_up(library, numbers, batch=1)  # into every corner
    assert acknowledged
    hits = search(library, Query(image_ids=acknowledged[:1], k=3)).hits
    assert len(hits) == 3
    assert len(library) == len(acknowledged)
    library.close()

    with Library.open(folder) as reader:  # another process, the disk still full
        assert len(reader) == len(acknowledged)
        assert search(reader, Query(image_ids=acknowledged[:1], k=3)).hits == hits
        assert not [p for p in reader.verify(acknowledged).problems if "memory only" not in p]

    with Library.open(folder, writable=True) as library:
        assert library.verify(acknowledged).missing == 0

    filler.unlink()
    with Library.open(folder, writable=True) as library:
        report = library.verify(acknowledged)
        assert report.ok, report.problems
        assert report.items == len(acknowledged)
        more = [record(n) for n in range(2_000_000, 2_000_020)]
        library.add(list(zip(more, unit(20, width=WIDTH), strict=True)))
        assert library.remove(acknowledged[:5]) == 5
        assert library.verify(acknowledged[5:]).ok


def test_no_room_for_a_new_library(disk: Callable[[str], Path]) -> None:
    folder = disk("size=48k")
    with pytest.raises(StoreError, match=r"full|refuses"):
        create(folder / "lib", width=WIDTH)
    assert list(folder.iterdir()) == []


def test_no_room_for_a_rebuild(disk: Callable[[str], Path]) -> None:
    folder = disk("size=4m") / "lib"
    with create(folder, width=WIDTH) as library:
        for at in range(0, 600, 100):
            vectors = unit(100, width=WIDTH, seed=at)
            library.add([(record(at + n), vector) for n, vector in enumerate(vectors)])
        (folder.parent / "filler").write_bytes(bytes(4_096_000 - sum_of(folder) - 400_000))
        with pytest.raises(StoreError, match="full"):
            library.rebuild()
        assert len(library) == 600
        assert library.vectors_of([record(5).image_id]).shape == (1, WIDTH)
        assert len(search(library, Query(image_ids=[record(5).image_id], k=5)).hits) == 5
    with Library.open(folder, writable=True) as library:
        assert library.verify(record(n).image_id for n in range(600)).ok


def sum_of(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(file.stat().st_size for file in folder.iterdir())


def fifty(folder: Path) -> Path:
    """A library of fifty images, closed and let go of."""
    child.create(folder)
    with Library.open(folder, writable=True) as library:
        library.add([(child.record(n), child.vector(n)) for n in range(50)])
    del library
    gc.collect()  # an unlinked file that is still mapped would keep the disk from being remounted
    return folder


def test_a_read_only_disk(disk: Callable[[str], Path]) -> None:
    folder = fifty(disk("size=8m") / "lib")
    disk("remount,ro,size=8m")
    with Library.open(folder) as reader:
        assert len(reader) == 50
        assert reader.verify().ok
        query = Query(vectors=child.vector(3), where=["modality=MR"], k=1)
        assert search(reader, query).hits[0].image_id == "image-3"
    with pytest.raises(StoreError, match="read-only"):
        Library.open(folder, writable=True)


def test_a_read_only_disk_with_a_damaged_matrix(disk: Callable[[str], Path]) -> None:
    folder = fifty(disk("size=8m") / "lib")
    next(folder.glob("vectors-*")).unlink()
    disk("remount,ro,size=8m")
    with Library.open(folder) as reader:
        assert len(reader) == 50
        assert any("memory only" in notice for notice in reader.notices)
        found = reader.vectors_of(["image-3"])[0]
        assert np.array_equal(found, child.vector(3).astype(np.float16))
        assert search(reader, Query(vectors=child.vector(3), k=1)).hits[0].image_id == "image-3"
