from __future__ import annotations

import dataclasses
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clinical_clip.errors import (
    IndexBusy,
    IndexCorrupt,
    IndexMismatch,
    IndexNotFound,
    InputError,
    StoreError,
    UnknownImageError,
    VectorError,
)
from clinical_clip.index import AddResult, Library
from clinical_clip.index.catalogue import CATALOGUE
from clinical_clip.types import ImageRecord, MediaKind, Patient, Rejection
from tests.index.make import WIDTH, create, fill, record, unit


def test_what_was_added_is_there_after_opening_again(tmp_path: Path) -> None:
    records, vectors = [record(n, modality="CT", year=2000 + n) for n in range(200)], unit(200)
    with create(tmp_path / "lib") as library:
        fill(library, records, vectors)
        assert len(library) == 200
    with Library.open(tmp_path / "lib") as library:
        assert library.ids() == [r.image_id for r in records]
        assert library.get(records[7].image_id) == records[7]
        stored = library.vectors_of([records[9].image_id, records[3].image_id])
        assert np.array_equal(stored, vectors[[9, 3]].astype(np.float16))
        assert library.verify(r.image_id for r in records).ok
        assert library.verify(["sha256:other"]).missing == 1
        assert not library.verify(["sha256:other"]).ok


def test_adding_again_changes_nothing(tmp_path: Path) -> None:
    batch = list(zip([record(n, modality="CT") for n in range(30)], unit(30), strict=True))
    with create(tmp_path / "lib") as library:
        assert library.add(batch) == AddResult(added=30)
        seq = library.info().seq
        assert library.add(batch) == AddResult(unchanged=30)
        assert library.add([*batch, *batch]) == AddResult(unchanged=60)
        assert library.info().seq == seq
        assert len(library) == 30


def test_stored_vectors_given_back_change_nothing(tmp_path: Path) -> None:
    records = [record(n) for n in range(50)]
    with create(tmp_path / "lib", width=512) as library:
        fill(library, records, unit(50, width=512))
        stored = library.vectors_of([r.image_id for r in records]).astype(np.float32)
        assert library.add(list(zip(records, stored, strict=True))) == AddResult(unchanged=50)


def test_the_first_of_a_repeated_id_counts(tmp_path: Path) -> None:
    vectors = unit(2)
    with create(tmp_path / "lib") as library:
        assert library.add([(record(1), vectors[0]), (record(1), vectors[1])]) == AddResult(
            added=1, unchanged=1
        )
        stored = library.vectors_of([record(1).image_id])[0]
        assert np.array_equal(stored, vectors[0].astype(np.float16))


@pytest.mark.parametrize("change", ["vector", "field", "patient", "frame"])
def test_a_change_replaces(tmp_path: Path, change: str) -> None:
    vectors, first = unit(2), record(1, modality="CT")
    second, vector = first, vectors[0]
    match change:
        case "vector":
            vector = vectors[1]
        case "field":
            second = record(1, modality="MR")
        case "patient":
            second = dataclasses.replace(first, patient=Patient(patient_id="9"))
        case "frame":
            second = dataclasses.replace(first, frame=2)
    with create(tmp_path / "lib") as library:
        library.add([(first, vectors[0])])
        assert library.add([(second, vector)]) == AddResult(updated=1)
        assert len(library) == 1
        assert library.get(first.image_id) == dataclasses.replace(second, patient=None)
        assert library.patient(first.image_id) == second.patient
        assert np.array_equal(library.vectors_of([first.image_id])[0], vector.astype(np.float16))
        assert library.verify().ok


def test_a_moved_file_is_followed_and_a_copy_is_not(tmp_path: Path) -> None:
    here, copy = tmp_path / "a.png", tmp_path / "b.png"
    here.write_bytes(b"x")
    copy.write_bytes(b"x")
    first = dataclasses.replace(record(1), path=here, relative_path="a.png")
    second = dataclasses.replace(first, path=copy, relative_path="b.png")
    vector = unit(1)[0]
    with create(tmp_path / "lib") as library:
        library.add([(first, vector)])
        assert library.add([(second, vector)]) == AddResult(unchanged=1)
        assert library.get(first.image_id).path == here
        here.unlink()
        assert library.add([(second, vector)]) == AddResult(updated=1)
        assert library.get(first.image_id).path == copy


def test_removing(tmp_path: Path) -> None:
    records, vectors = [record(n) for n in range(100)], unit(100)
    with create(tmp_path / "lib") as library:
        fill(library, records, vectors)
        gone = [r.image_id for r in records[::3]]
        assert library.remove([*gone, "unknown", gone[0]]) == len(gone)
        assert library.remove(gone) == 0
        assert library.known(r.image_id for r in records) == {r.image_id for r in records} - set(gone)
        assert library.verify().ok
        library.rebuild()
        assert library.verify().ok
        assert len(library.snapshot().slots) == 100 - len(gone)
    with Library.open(tmp_path / "lib") as library:
        assert len(library) == 100 - len(gone)
        with pytest.raises(UnknownImageError):
            library.get(gone[0])


def test_what_is_removed_leaves_no_trace_on_disk(tmp_path: Path) -> None:
    secret_words = (b"Zebra^Quagga", b"PID-4711-ZZ", b"visible-caption-zz", b"deep/zz/path.png")
    vector = unit(3)
    patient = Patient(patient_id="PID-4711-ZZ", name="Zebra^Quagga", birth_date="19470711")
    doomed = ImageRecord(
        image_id="1.2.3.4711#0",
        path=Path("/deep/zz/path.png"),
        relative_path="deep/zz/path.png",
        fields={"caption": "visible-caption-zz"},
        patient=patient,
    )
    folder = tmp_path / "lib"
    with create(folder) as library:
        fill(library, [record(1), doomed, record(2)], vector)
        library.remove([doomed.image_id])
        on_disk = {file.name: file.read_bytes() for file in folder.iterdir()}
        needles = [*secret_words, vector[1].astype("<f2").tobytes(), b"1.2.3.4711"]
        found = [(name, word) for name, data in on_disk.items() for word in needles if word in data]
        assert found == []
        assert vector[0].astype("<f2").tobytes() in on_disk[CATALOGUE]  # the search would have found them


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        (np.full(WIDTH, np.nan, np.float32), "NaN"),
        (np.zeros(WIDTH, np.float32), "norm"),
        (2 * unit(1)[0], "norm"),
        (unit(1, width=WIDTH + 1)[0], "width"),
    ],
)
def test_bad_vectors_are_refused_and_nothing_of_the_batch_is_stored(
    tmp_path: Path, vector: np.ndarray, said: str
) -> None:
    with create(tmp_path / "lib") as library:
        for bad_batch in ([(record(0), unit(1)[0]), (record(1), vector)], [(record(1), vector)]):
            with pytest.raises(VectorError, match=said):
                library.add(bad_batch)
        assert len(library) == 0
        assert library.verify().ok


def test_bad_fields_are_refused(tmp_path: Path) -> None:
    with create(tmp_path / "lib") as library:
        for bad in (float("nan"), None, ["a"]):
            with pytest.raises(InputError, match="field 'x'"):
                library.add([(record(1, x=bad), unit(1)[0])])  # type: ignore[arg-type]
        with pytest.raises(InputError, match="id"):
            library.add([(dataclasses.replace(record(1), image_id=""), unit(1)[0])])
        assert len(library) == 0


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.png")
    item = dataclasses.replace(record(1), path=Path("/data") / odd, relative_path=odd)
    with create(tmp_path / "lib") as library:
        library.add([(item, unit(1)[0])])
        assert library.get(item.image_id) == item
        assert library.resolve(odd) == [item.image_id]


def test_resolving_names(tmp_path: Path) -> None:
    frames = [
        ImageRecord(
            image_id=f"1.2.840.1#{frame}",
            path=tmp_path / "x.dcm",
            relative_path="x.dcm",
            frame=frame,
            kind=MediaKind.DICOM,
            study_uid="1.2.840.9",
            series_uid="1.2.840.8",
            sop_instance_uid="1.2.840.1",
            multi=True,
        )
        for frame in range(3)
    ]
    ids = [frame.image_id for frame in frames]
    with create(tmp_path / "lib") as library:
        fill(library, frames, unit(3))
        assert library.resolve("1.2.840.1#1") == ids[1:2]
        for name in ("1.2.840.1", "1.2.840.8", "1.2.840.9", "x.dcm", str(tmp_path / "x.dcm")):
            assert library.resolve(name) == ids
        assert library.resolve("x.dcm#2") == ids[2:]
        for name in ("", "1.2.840", "x.dcm#7", "' OR 1=1 --", "%"):
            with pytest.raises(UnknownImageError) as caught:
                library.resolve(name)
            assert not name or name not in str(caught.value)


def test_patients_are_apart(tmp_path: Path) -> None:
    with create(tmp_path / "lib") as library:
        library.add([(record(1, patient="ID-SECRET", modality="CT"), unit(1)[0])])
        found = library.patient(record(1).image_id)
        assert found == Patient(patient_id="ID-SECRET", name="Doe^Jane")
        assert library.get(record(1).image_id).patient is None
        shown = repr(library.made) + repr(library.info()) + repr(library.get(record(1).image_id))
        assert "SECRET" not in shown
        assert "Doe" not in shown
        assert library.info().patients == 1
    with sqlite3.connect(tmp_path / "lib" / CATALOGUE) as connection:
        (text,) = connection.execute(
            "SELECT group_concat(patient_key || fields || path) FROM items"
        ).fetchone()
    connection.close()
    assert "SECRET" not in text
    assert "Doe" not in text


def test_two_libraries_hash_a_patient_differently(tmp_path: Path) -> None:
    patient = Patient(patient_id="7")
    with create(tmp_path / "a") as one, create(tmp_path / "b") as other:
        assert one.patient_key(patient) != other.patient_key(patient)
        assert one.patient_key(patient) == one.patient_key(Patient(patient_id=" 7", name="x"))
        assert one.patient_key(patient) != one.patient_key(Patient(patient_id="7", issuer="B"))


def test_rejections_of_the_last_run_are_kept(tmp_path: Path) -> None:
    said = [Rejection(name="a.dcm", code="corrupt", what="cut short", hint="send it again")]
    with create(tmp_path / "lib") as library:
        library.note_rejections([*said, *said])
        library.note_rejections(said)
        assert library.info().rejected == 1
    with Library.open(tmp_path / "lib") as library:
        assert library.rejections() == said


def test_an_index_is_made_by_one_encoder(tmp_path: Path) -> None:
    same = {"encoder_name": "test", "encoder_digest": "e" * 8, "preprocessing_digest": "p" * 8}
    with create(tmp_path / "lib") as library:
        library.check_encoder(**same)
        for name in same:
            with pytest.raises(IndexMismatch, match="index was made with"):
                library.check_encoder(**{**same, name: "other"})


def test_nothing_there_and_something_there(tmp_path: Path) -> None:
    for writable in (False, True):
        with pytest.raises(IndexNotFound):
            Library.open(tmp_path / "none", writable=writable)
        with pytest.raises(IndexNotFound):
            Library.open(tmp_path, writable=writable)
    assert list(tmp_path.iterdir()) == []
    create(tmp_path / "lib").close()
    for taken in (tmp_path / "lib", tmp_path / "lib" / CATALOGUE):
        with pytest.raises(StoreError, match="something already"):
            create(taken)
    (tmp_path / "empty").mkdir()
    create(tmp_path / "empty").close()
    create(tmp_path / "deep" / "er" / "lib").close()


def test_another_schema_is_refused(tmp_path: Path) -> None:
    create(tmp_path / "lib").close()
    with sqlite3.connect(tmp_path / "lib" / CATALOGUE) as connection:
        connection.execute("UPDATE meta SET schema_version = 99")
    connection.close()
    with pytest.raises(IndexMismatch, match="schema 99"):
        Library.open(tmp_path / "lib")


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with create(tmp_path / "lib") as library:
        library.add([(record(1), unit(1)[0])])
        with pytest.raises(IndexBusy, match=f"process {os.getpid()} "):
            Library.open(tmp_path / "lib", writable=True)
        code = (
            f"from clinical_clip.index import Library; Library.open({str(tmp_path / 'lib')!r}, writable=True)"
        )
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert other.returncode != 0
        assert f"IndexBusy: process {os.getpid()} is writing" in other.stderr
        with Library.open(tmp_path / "lib") as reader:
            assert len(reader) == 1
            with pytest.raises(StoreError, match="reading only"):
                reader.add([(record(2), unit(1)[0])])
            with pytest.raises(StoreError, match="reading only"):
                reader.remove([record(1).image_id])
    Library.open(tmp_path / "lib", writable=True).close()


def test_readers_see_what_is_committed_when_they_refresh(tmp_path: Path) -> None:
    vectors = unit(40)
    with create(tmp_path / "lib") as writer:
        fill(writer, [record(n) for n in range(10)], vectors[:10])
        with Library.open(tmp_path / "lib") as reader:
            for step in range(1, 4):
                at = 10 * step
                fill(writer, [record(n) for n in range(at, at + 10)], vectors[at : at + 10])
                writer.remove([record(at).image_id, record(step).image_id])
                if step == 2:
                    writer.rebuild()
                before = len(reader)
                assert reader.refresh()
                assert (len(reader), before) == (len(writer), len(writer) - 8)
                assert not reader.refresh()
                assert reader.verify().ok
                assert reader.ids() == writer.ids()


def test_a_reader_of_a_read_only_folder(tmp_path: Path) -> None:
    folder = tmp_path / "lib"
    with create(folder) as library:
        fill(library, [record(n) for n in range(20)], unit(20))
    before = sorted(file.name for file in folder.iterdir())
    with Library.open(folder) as reader:
        assert len(reader) == 20
        assert reader.notices == []
    assert set(before) <= {file.name for file in folder.iterdir()}


def test_a_catalogue_that_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / CATALOGUE).write_bytes(b"this is not a database" * 200)
    for writable in (False, True):
        with pytest.raises(IndexCorrupt, match="damaged"):
            Library.open(folder, writable=writable)
    (folder / CATALOGUE).write_bytes(b"")
    with pytest.raises(IndexCorrupt, match="no library"):
        Library.open(folder)
