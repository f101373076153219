"""Damage to each file: found, named, and mended from the catalogue where the catalogue is whole."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from clinical_clip.errors import IndexBusy, StoreError
from clinical_clip.index import Library
from clinical_clip.index.catalogue import CATALOGUE
from clinical_clip.index.matrix import Sidecar
from tests.index.make import create, fill, record, unit

ROWS = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with create(tmp_path / "lib") as library:
        fill(library, [record(n, patient=str(n), modality="CT") for n in range(ROWS)], unit(ROWS), batch=25)
        library.remove([record(7).image_id])
    return tmp_path / "lib"


def part(folder: Path, name: str) -> Path:
    """The one file whose name begins so."""
    (found,) = folder.glob(name + "*")
    return found


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_last(path: Path) -> None:
    flip(path, path.stat().st_size - 40)


def flip(path: Path, at: int, bit: int = 4) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(bytes(data))


def behind(path: Path) -> None:
    rewrite_sidecar(path, seq=1)


def ahead(path: Path) -> None:
    rewrite_sidecar(path, seq=900)


def of_another_library(path: Path) -> None:
    rewrite_sidecar(path, library_id="0" * 32)


def rewrite_sidecar(path: Path, **changed: object) -> None:
    """A description with a right checksum that says something wrong."""
    body = json.loads(path.read_bytes())
    for name in ("format", "block_rows", "checksum"):
        del body[name]
    path.write_bytes(Sidecar(**{**body, **changed}).to_bytes())


MATRIX_DAMAGE = [
    *[
        (name, damage)
        for name in ("vectors-", "slots-", "matrix")
        for damage in (Path.unlink, cut, empty, flip_last)
    ],
    *[("matrix", damage) for damage in (behind, ahead, of_another_library)],
]


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize(("name", "damage"), MATRIX_DAMAGE)
def test_a_damaged_matrix_is_made_anew(
    folder: Path, name: str, damage: Callable[[Path], None], writable: bool
) -> None:
    damage(part(folder, name))
    with Library.open(folder, writable=writable) as library:
        assert len(library) == ROWS - 1
        assert len(library.notices) == 1
        assert "made anew" in library.notices[0]
        report = library.verify()
        assert report.ok, report.problems
        assert library.vectors_of([record(8).image_id]).tobytes() == unit(ROWS)[8].astype("<f2").tobytes()
    with Library.open(folder) as library:
        assert library.notices == []


@pytest.mark.parametrize("name", ["vectors-", "slots-", "matrix"])
def test_searching_goes_on_in_memory_while_a_writer_is_busy(folder: Path, name: str) -> None:
    with Library.open(folder, writable=True) as writer:
        part(folder, name).unlink()
        with Library.open(folder) as reader:
            assert len(reader) == ROWS - 1
            assert any("in memory only" in notice for notice in reader.notices)
            assert not reader.verify().ok
            fill(writer, [record(900)], unit(1, seed=9))
            assert reader.refresh()
            assert len(reader) == ROWS
        writer.rebuild()
        assert writer.verify().ok
    assert Library.open(folder).verify().ok


def test_a_flip_inside_the_matrix_is_found_by_verify_and_mended_by_rebuild(tmp_path: Path) -> None:
    rows = 9000
    with create(tmp_path / "lib") as library:
        fill(library, [record(n) for n in range(rows)], unit(rows), batch=3000)
    flip(part(tmp_path / "lib", "vectors-"), 1000)
    with Library.open(tmp_path / "lib", writable=True) as library:
        problems = library.verify().problems
        assert any("block 0" in problem for problem in problems)
        assert any(record(1000 // 48).image_id in problem for problem in problems)
        library.rebuild()
        assert library.verify().ok


def test_leftovers_are_named_and_cleared(folder: Path) -> None:
    with Library.open(folder, writable=True) as library:
        shutil.copy(part(folder, "vectors-"), folder / "vectors-000009.f16")
        assert any("left over" in problem for problem in library.verify().problems)
    with Library.open(folder, writable=True) as library:
        assert library.verify().ok
    assert len(list(folder.glob("vectors-*"))) == 1


def test_an_older_catalogue_put_back(folder: Path) -> None:
    old = (folder / CATALOGUE).read_bytes()
    with Library.open(folder, writable=True) as library:
        fill(library, [record(200 + n) for n in range(10)], unit(10, seed=2))
    for name in ("-wal", "-shm"):
        (folder / (CATALOGUE + name)).unlink(missing_ok=True)
    (folder / CATALOGUE).write_bytes(old)
    with Library.open(folder, writable=True) as library:
        assert len(library) == ROWS - 1
        assert library.verify().ok
        fill(library, [record(300 + n) for n in range(10)], unit(10, seed=3))
        assert library.verify().ok


def edit(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / CATALOGUE)
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ('UPDATE items SET fields = \'{"modality": "MR"}\' WHERE slot = 5', "row differs"),
        ("UPDATE identities SET name = 'x' WHERE slot = 5", "identity differs"),
        ("UPDATE vectors SET vector = zeroblob(48) WHERE slot = 5", "damaged"),
        ("UPDATE vectors SET vector = zeroblob(4) WHERE slot = 5", "damaged"),
        ("DELETE FROM vectors WHERE slot = 5", "no vector"),
        (
            "INSERT INTO vectors SELECT 9999, vector, checksum FROM vectors WHERE slot = 5",
            "belong to no image",
        ),
        ("INSERT INTO tombstones VALUES (5, 1)", "both stored and removed"),
    ],
)
def test_a_catalogue_that_disagrees_with_itself(folder: Path, statement: str, said: str) -> None:
    edit(folder, statement)
    with Library.open(folder) as library:
        problems = library.verify().problems
        assert any(said in problem for problem in problems), problems


def test_a_deleted_row_is_noticed_on_opening(folder: Path) -> None:
    edit(folder, "DELETE FROM items WHERE slot = 5")
    with Library.open(folder) as library:
        assert "59 vectors" in library.notices[0]
        assert len(library) == ROWS - 2
        assert not library.verify().ok


def test_a_vector_that_is_gone_from_a_matrix_made_anew(folder: Path) -> None:
    edit(folder, "DELETE FROM vectors WHERE slot = 5")
    part(folder, "matrix").unlink()
    for writable in (True, False):
        with Library.open(folder, writable=writable) as library:
            assert len(library) == ROWS - 2
            assert any("no vector" in problem for problem in library.verify().problems)


def contents(folder: Path) -> list[object]:
    """All that the catalogue says, read by plain sqlite3."""
    connection = sqlite3.connect(folder / CATALOGUE)
    tables = ("meta", "items", "vectors", "identities", "tombstones")
    rows: list[object] = [
        connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in tables
    ]
    connection.close()
    return rows


def survives_flips(folder: Path, count: int, seed: int) -> int:
    """Flip single bits of the catalogue; each is found, or changed nothing. Returns how many were found."""
    dice = random.Random(seed)
    size = (folder / CATALOGUE).stat().st_size
    whole, data = contents(folder), (folder / CATALOGUE).read_bytes()
    found = 0
    for _ in range(count):
        (folder / CATALOGUE).write_bytes(data)
        flip(folder / CATALOGUE, dice.randrange(size), dice.randrange(8))
        try:
            with Library.open(folder) as library:
                damaged = not library.verify().ok or bool(library.notices)
        except IndexBusy:
            raise
        except StoreError:
            damaged = True
        found += damaged
        if not damaged:
            assert contents(folder) == whole
    return found


def test_flipped_bits_in_the_catalogue(folder: Path) -> None:
    assert survives_flips(folder, 60, seed=1) > 20


@pytest.mark.full
def test_many_flipped_bits_in_the_catalogue(folder: Path) -> None:
    assert survives_flips(folder, 3000, seed=2) > 500


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_catalogue_cut_short(folder: Path, keep: float) -> None:
    path = folder / CATALOGUE
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(StoreError), Library.open(folder) as library:  # noqa: PT012
        problems = library.verify().problems
        assert problems
        raise StoreError(problems[0])
