"""Stored vectors: written, read, and refused when they cannot be used."""

from __future__ import annotations

import numpy as np
import pytest

from clinical_clip.errors import EvaluationError, SourceError, VectorError
from clinical_clip.evaluate.vectors import align, load_vectors, normalise, save_vectors

NAMES = ["a.png", "b.png", "c.dcm#1"]
VECTORS = np.array([[3, 4], [0, 2], [-1, 0]], dtype=np.float32)


def test_round_trip_and_alignment(tmp_path):
    path = tmp_path / "new folder" / "v.npz"
    save_vectors(path, NAMES, VECTORS)
    stored = load_vectors(path)
    assert (stored.ids, stored.encoder) == (NAMES, "")
    aligned = align(["c.dcm#1", "a.png"], stored, where="v.npz")
    assert aligned.dtype == np.float32
    assert aligned == pytest.approx(np.array([[-1, 0], [0.6, 0.8]]))
    assert [p.name for p in path.parent.iterdir()] == ["v.npz"]


def test_what_embed_adds_is_read(tmp_path):
    path = tmp_path / "v.npz"
    np.savez(path, ids=np.array(NAMES), vectors=VECTORS.astype(np.float16), encoder=np.array("lite0"))
    assert load_vectors(path).encoder == "lite0"


def test_images_without_a_vector_are_counted_and_named(tmp_path):
    path = tmp_path / "v.npz"
    save_vectors(path, NAMES, VECTORS)
    with pytest.raises(EvaluationError, match=r"2 of 3 images have no vector, the first is 'x.png'"):
        align(["a.png", "x.png", "y.png"], load_vectors(path), where="v.npz")


def test_an_id_that_occurs_twice_is_refused(tmp_path):
    path = tmp_path / "v.npz"
    np.savez(path, ids=np.array(["a", "a"]), vectors=np.eye(2))
    with pytest.raises(SourceError, match="twice"):
        align(["a"], load_vectors(path), where="v.npz")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_refused_by_name(bad):
    vectors = VECTORS.copy()
    vectors[1, 1] = bad
    with pytest.raises(VectorError, match=r"1 vectors are NaN, infinite or zero \(b.png\)"):
        normalise(vectors, NAMES)


def test_zero_vectors_are_refused_unless_allowed():
    vectors = VECTORS * np.array([[1], [0], [1]], dtype=np.float32)
    with pytest.raises(VectorError, match=r"b\.png"):
        normalise(vectors, NAMES)
    assert normalise(vectors, NAMES, zero_ok=True)[1].tolist() == [0, 0]


def test_very_long_and_very_short_vectors_are_normalised():
    huge = np.array([[3e30, 4e30], [3e-30, 4e-30]], dtype=np.float32)
    assert normalise(huge, ["a", "b"]) == pytest.approx(np.array([[0.6, 0.8]] * 2))


def write(path, **arrays):
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    "arrays",
    [
        {"ids": np.array(NAMES)},
        {"vectors": VECTORS},
        {"ids": np.array(NAMES[:2]), "vectors": VECTORS},
        {"ids": np.array(NAMES), "vectors": VECTORS[0]},
        {"ids": np.array(NAMES), "vectors": VECTORS.astype(int)},
        {"ids": np.array(NAMES, dtype=object), "vectors": VECTORS},
    ],
    ids=["no vectors", "no ids", "too few ids", "one dimension", "whole numbers", "pickled ids"],
)
def test_archives_of_another_form_are_refused(tmp_path, arrays):
    write(tmp_path / "v.npz", **arrays)
    with pytest.raises(SourceError, match=r"v\.npz"):
        load_vectors(tmp_path / "v.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"no archive at all"])
def test_damaged_files_are_refused(tmp_path, content):
    (tmp_path / "v.npz").write_bytes(content)
    with pytest.raises(SourceError, match="not a file of vectors"):
        load_vectors(tmp_path / "v.npz")
    with pytest.raises(SourceError, match="not a file of vectors"):
        load_vectors(tmp_path / "absent.npz")
    np.save(tmp_path / "plain.npy", VECTORS)
    with pytest.raises(SourceError, match="not a file of vectors"):
        load_vectors(tmp_path / "plain.npy")


def test_a_file_cut_anywhere_is_refused(tmp_path):
    save_vectors(tmp_path / "v.npz", NAMES, VECTORS)
    whole = (tmp_path / "v.npz").read_bytes()
    for end in range(0, len(whole) - 1, 7):
        (tmp_path / "cut.npz").write_bytes(whole[:end])
        with pytest.raises(SourceError):
            load_vectors(tmp_path / "cut.npz")
