from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clinical_clip.errors import OptionError, QueryError, UnknownImageError, VectorError
from clinical_clip.index import Library
from clinical_clip.search import Query, search
from clinical_clip.types import ImageRecord, Patient
from tests.index.make import WIDTH, brute_force, create, fill, record, unit

ROWS = 240
VECTORS = unit(ROWS, seed=6)


def image(number: int) -> ImageRecord:
    """Four images a study, two studies a patient; the last twenty belong to no study and no patient."""
    base = record(number, modality=("CT", "MR", "US")[number % 3], year=2000 + number % 10)
    if number >= ROWS - 20:
        return base
    patient = Patient(patient_id=str(number // 8), issuer="H")
    return dataclasses.replace(base, study_uid=f"1.2.{number // 4}", patient=patient)


RECORDS = [image(number) for number in range(ROWS)]
NUMBER = {item.image_id: number for number, item in enumerate(RECORDS)}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    with create(tmp_path_factory.mktemp("run") / "lib") as library:
        fill(library, RECORDS, VECTORS)
        yield library


def wanted(query: np.ndarray, numbers: set[int], k: int) -> list[tuple[str, float]]:
    """Brute force over some of the images."""
    stored = {RECORDS[n].image_id: VECTORS[n].astype("<f2") for n in numbers}
    return brute_force(stored, query.astype(np.float64), k)


def found(library: Library, query: Query) -> list[tuple[str, float]]:
    """Ids and scores, ranks checked."""
    hits = search(library, query).hits
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    return [(hit.image_id, hit.score) for hit in hits]


EVERY = set(range(ROWS))


def test_by_vector(library: Library) -> None:
    query = unit(1, seed=99)[0]
    assert found(library, Query(vectors=3 * query, k=15)) == wanted(query, EVERY, 15)
    assert found(library, Query(vectors=query, k=5)) == wanted(query, EVERY, 15)[:5]


def test_by_image(library: Library) -> None:
    stored = VECTORS[9].astype("<f2")
    by_id = Query(image_ids=[RECORDS[9].image_id], k=6)
    assert found(library, by_id) == wanted(stored, EVERY - {9}, 6)
    with_self = dataclasses.replace(by_id, exclude_self=False)
    assert found(library, with_self)[0] == (RECORDS[9].image_id, 1.0)
    assert found(library, with_self) == wanted(stored, EVERY, 6)


def test_by_several_with_weights(library: Library) -> None:
    extra = unit(1, seed=77)[0]
    parts = [VECTORS[n].astype("<f2").astype(np.float64) for n in (3, 50)] + [extra.astype(np.float64)]
    units = [part / math.sqrt(float(part @ part)) for part in parts]
    mean = 2.0 * units[0] - 0.5 * units[1] + 1.0 * units[2]
    ids = [RECORDS[n].image_id for n in (3, 50)]
    query = Query(image_ids=ids, vectors=10 * extra, weights=[2.0, -0.5, 1.0], k=8)
    assert found(library, query) == wanted(mean, EVERY - {3, 50}, 8)
    plain = Query(image_ids=ids, k=8)
    assert found(library, plain) == wanted(units[0] + units[1], EVERY - {3, 50}, 8)


def test_with_filters(library: Library) -> None:
    query = unit(1, seed=98)[0]
    passing = {n for n in EVERY if n % 3 == 0 and n % 10 <= 4}
    asked = Query(vectors=query, where=["modality=CT", "year=2000..2004"], k=9)
    assert found(library, asked) == wanted(query, passing, 9)
    assert search(library, asked).eligible == len(passing)
    assert search(library, dataclasses.replace(asked, where=["modality=PT"])).hits == ()


def test_without_the_same_patient(library: Library) -> None:
    stored = VECTORS[9].astype("<f2")
    asked = Query(image_ids=[RECORDS[9].image_id], exclude_same_patient=True, k=20)
    same = {n for n in range(ROWS - 20) if n // 8 == 9 // 8}
    assert len(same) == 8
    assert found(library, asked) == wanted(stored, EVERY - same, 20)
    file = Query(
        vectors=stored, patients=[Patient(patient_id="1", issuer="H")], exclude_same_patient=True, k=20
    )
    assert found(library, file) == found(library, asked)
    study = Query(vectors=stored, study_uids=["1.2.2"], exclude_same_patient=True, k=20)
    assert found(library, study) == wanted(stored, EVERY - {8, 9, 10, 11}, 20)
    nobody = Query(vectors=stored, patients=[Patient()], study_uids=[""], exclude_same_patient=True, k=20)
    assert found(library, nobody) == wanted(stored, EVERY, 20)


def test_leaving_out_ids(library: Library) -> None:
    stored = VECTORS[9].astype("<f2")
    asked = Query(vectors=stored, exclude_ids=[RECORDS[9].image_id, "unknown"], k=4)
    assert found(library, asked) == wanted(stored, EVERY - {9}, 4)


@pytest.mark.parametrize("where", [(), ("modality=CT|MR",)])
@pytest.mark.parametrize("k", [1, 7, 70, 1000])
def test_by_study(library: Library, where: tuple[str, ...], k: int) -> None:
    query = unit(1, seed=97)[0]
    passing = {n for n in EVERY if not where or n % 3 != 2}
    best: dict[object, tuple[str, float]] = {}
    sizes: dict[object, int] = {}
    for image_id, score in wanted(query, passing, ROWS):
        number = NUMBER[image_id]
        group = RECORDS[number].study_uid or number
        best.setdefault(group, (image_id, score))
        sizes[group] = sizes.get(group, 0) + 1
    hits = search(library, Query(vectors=query, where=where, k=k, group_by="study")).hits
    assert [(hit.image_id, hit.score) for hit in hits] == list(best.values())[:k]
    assert [hit.group_size for hit in hits] == list(sizes.values())[:k]


def test_one_study_in_front_of_all_others(tmp_path: Path) -> None:
    vectors = unit(300, seed=3)
    vectors[:200] = vectors[0]
    records = [dataclasses.replace(record(n), study_uid="1" if n < 200 else f"2.{n}") for n in range(300)]
    with create(tmp_path / "lib") as library:
        fill(library, records, vectors)
        hits = search(library, Query(vectors=vectors[0], k=3, group_by="study")).hits
        assert [hit.study_uid == "1" for hit in hits] == [True, False, False]
        assert hits[0].group_size == 200
        assert hits[0].image_id == min(records[n].image_id for n in range(200))


def test_what_a_hit_says(library: Library) -> None:
    hit = search(library, Query(image_ids=[RECORDS[9].image_id], exclude_self=False, k=1)).hits[0]
    item = RECORDS[9]
    assert (hit.path, hit.relative_path, hit.frame, hit.kind) == (
        item.path,
        item.relative_path,
        item.frame,
        item.kind,
    )
    assert (dict(hit.fields), hit.study_uid, hit.group_size) == (dict(item.fields), "1.2.2", 1)


def test_the_same_question_has_the_same_answer(library: Library) -> None:
    query = Query(vectors=unit(1, seed=96)[0], k=30)
    first = search(library, query)
    assert all(search(library, query) == first for _ in range(3))


def test_queries_that_cannot_be_answered(library: Library) -> None:
    good = unit(1)[0]
    for k in (0, -1):
        with pytest.raises(OptionError, match="k is"):
            Query(vectors=good, k=k)
    with pytest.raises(QueryError, match="nothing to ask by"):
        Query()
    with pytest.raises(OptionError, match="study"):
        Query(vectors=good, group_by="patient")  # type: ignore[arg-type]
    with pytest.raises(UnknownImageError):
        search(library, Query(image_ids=["nope"]))
    for bad in (np.zeros(WIDTH), np.full(WIDTH, np.inf), np.ones(WIDTH + 1), np.zeros((0, WIDTH))):
        with pytest.raises((VectorError, QueryError)):
            search(library, Query(vectors=bad))
    for weights in ([1.0, 2.0], [float("nan")]):
        with pytest.raises(OptionError, match="weight"):
            search(library, Query(vectors=good, weights=weights))
    with pytest.raises(VectorError, match="cancel"):
        search(library, Query(vectors=np.stack([good, -good])))
    assert len(search(library, Query(vectors=good, k=10**9)).hits) == ROWS


def test_an_empty_library(tmp_path: Path) -> None:
    with create(tmp_path / "lib") as library:
        for group_by in (None, "study"):
            result = search(library, Query(vectors=unit(1)[0], group_by=group_by))  # type: ignore[arg-type]
            assert (result.hits, result.eligible) == ((), 0)


def test_what_was_removed_since_the_reader_looked_is_not_shown(tmp_path: Path) -> None:
    vectors = unit(30)
    with create(tmp_path / "lib") as library:
        fill(library, [record(n) for n in range(30)], vectors)
        with Library.open(tmp_path / "lib") as reader:
            first = search(reader, Query(vectors=vectors[0], k=5)).hits
            library.remove([first[0].image_id, first[2].image_id])
            later = search(reader, Query(vectors=vectors[0], k=3)).hits
            assert [hit.image_id for hit in later] == [first[n].image_id for n in (1, 3, 4)]
