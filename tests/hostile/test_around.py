"""Hostile identities, captions, objects and queries: what the rest of the product makes of them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from tests.dicom.build import SECONDARY_CAPTURE, element, image_elements, part10
from tests.hostile.rows import GOOD, PIXEL_ELEMENT, small_png
from tests.index.make import WIDTH, create, fill, record, unit

from clinical_clip.data.source import open_source
from clinical_clip.errors import FilterError, ManifestError, OptionError, UnknownImageError, VectorError
from clinical_clip.index import Library
from clinical_clip.search import Query, search
from clinical_clip.types import ImageRecord, Rejection


def read(path: Path) -> tuple[list[ImageRecord], list[Rejection]]:
    found = list(open_source(path))
    records = [one for one in found if isinstance(one, ImageRecord)]
    return records, [one for one in found if isinstance(one, Rejection)]


@pytest.mark.parametrize("uid", ["../../x", "1." * 32 + "1", "", "1.2.3/../..", "a\nb", "%00"])
def test_a_bad_uid_never_becomes_an_id(tmp_path: Path, uid: str) -> None:
    (tmp_path / "x.dcm").write_bytes(part10(GOOD, uid=uid))
    ((found,), rejections) = read(tmp_path)
    assert found.image_id.startswith("sha256:")
    assert found.sop_instance_uid == ""
    assert rejections == []


def test_the_same_uid_with_the_same_bytes_is_one_image(tmp_path: Path) -> None:
    for name in ("a.dcm", "b.dcm"):
        (tmp_path / name).write_bytes(part10(GOOD))
    source = open_source(tmp_path)
    (found,) = list(source)
    assert isinstance(found, ImageRecord)
    assert (found.relative_path, source.counts.duplicates) == ("a.dcm", 1)
    with create(tmp_path / "library") as library:
        fill(library, [found, found], unit(2))
        fill(library, [found], unit(1))
        assert len(library) == 1


def test_the_same_uid_with_other_bytes_keeps_the_first_and_names_the_second(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(part10(GOOD))
    (tmp_path / "b.dcm").write_bytes(part10(image_elements() + element(0x7FE00010, "OW", bytes(16))))
    ((found,), (rejection,)) = read(tmp_path)
    assert (found.relative_path, rejection.name) == ("a.dcm", "b.dcm")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("88.11", "no-pixels"),  # Basic Text SR
        ("88.67", "no-pixels"),  # X-Ray Radiation Dose SR
        ("11.1", "no-pixels"),  # Grayscale Softcopy Presentation State
        ("9.1.1", "no-pixels"),  # 12-lead ECG
        ("104.1", "no-pixels"),  # Encapsulated PDF
        ("481.5", "no-pixels"),  # RT Plan
        ("66.4", "unsupported"),  # Segmentation, with pixels
    ],
)
def test_objects_that_are_no_images_are_named(tmp_path: Path, code: str, kind: str) -> None:
    body = image_elements() + (PIXEL_ELEMENT if kind == "unsupported" else b"")
    old = element(0x00080016, "UI", SECONDARY_CAPTURE.encode())
    new = element(0x00080016, "UI", f"1.2.840.10008.5.1.4.1.1.{code}".encode())
    (tmp_path / "x.dcm").write_bytes(part10(body).replace(old, new))
    records, (rejection,) = read(tmp_path)
    assert records == []
    assert rejection.code == kind


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "bell\x07 tab\t nul-free",
        "<script>alert(1)</script>",
        "=1+1",
        "a'; DROP TABLE images; --",
    ],
    ids=["empty", "control characters", "HTML", "formula", "SQL"],
)
def test_captions_stay_data(tmp_path: Path, caption: str) -> None:
    (tmp_path / "a.png").write_bytes(small_png())
    (tmp_path / "m.csv").write_text(f'image,caption\na.png,"{caption}"\n')
    ((found,), rejections) = read(tmp_path / "m.csv")
    assert rejections == []
    assert found.fields.get("caption", "") == caption
    with create(tmp_path / "library") as library:
        fill(library, [found], unit(1))
        (hit,) = search(library, Query(image_ids=[found.image_id], exclude_self=False)).hits
    assert hit.fields.get("caption", "") == caption


def test_a_caption_of_10_mb_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(small_png())
    (tmp_path / "m.csv").write_text(f"image,caption\na.png,{'x' * 10_000_000}\n")
    with pytest.raises(ManifestError, match="line 2"):
        read(tmp_path / "m.csv")


@pytest.fixture
def library(tmp_path: Path) -> Library:
    made = create(tmp_path / "library")
    fill(made, [record(n, modality="CT") for n in range(5)], unit(5))
    return made


@pytest.mark.parametrize(
    "vector",
    [
        np.full(WIDTH, np.nan),
        np.full(WIDTH, np.inf),
        np.zeros(WIDTH),
        np.ones(WIDTH + 1),
        np.ones(0),
        np.ones((2, 2, WIDTH)),
    ],
    ids=["NaN", "infinite", "zero", "wide", "empty", "three axes"],
)
def test_bad_vectors_are_refused(library: Library, vector: np.ndarray) -> None:
    with library, pytest.raises(VectorError):
        search(library, Query(vectors=vector))


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(k: int) -> None:
    with pytest.raises(OptionError):
        Query(image_ids=["x"], k=k)


def test_k_of_a_billion_gives_all_there_are(library: Library) -> None:
    with library:
        hits = search(library, Query(vectors=unit(1), k=10**9)).hits
    assert len(hits) == 5


@pytest.mark.parametrize(
    "expression",
    [
        "modality=CT' OR '1'='1",
        "1=1; DROP TABLE images",
        "__class__=x",
        "modality",
        "modality==",
        "\0=1",
        "é\n=2",
    ],
)
def test_a_filter_cannot_be_more_than_a_filter(library: Library, expression: str) -> None:
    with library:
        with contextlib.suppress(FilterError):
            assert len(search(library, Query(vectors=unit(1), where=[expression])).hits) == 0
        assert len(library) == 5


def test_an_unknown_id_is_refused(library: Library) -> None:
    with library, pytest.raises(UnknownImageError):
        search(library, Query(image_ids=["../../etc/passwd"]))
