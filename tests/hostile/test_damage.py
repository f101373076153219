"""Cuts and mutations of good files: rejected by type, or the same pixels; never a crash."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.dicom.build import element, image_elements, part10
from tests.dicom.reference import real_files
from tests.hostile.corpus import corpus
from tests.hostile.measure import read_pixels
from tests.hostile.mutate import mutate
from tests.hostile.rows import GOOD, PIXELS, encapsulated, item, jpeg, small_png
from tests.hostile.target import HOSTILE_LIMITS, read_both

from clinical_clip.data.jail import Jail
from clinical_clip.dicom.limits import Limits
from clinical_clip.dicom.pixels import read_frame
from clinical_clip.errors import DecoderFailed, ImageRejected

MUTATIONS = 2000


def written(folder: Path, contents: Iterator[bytes], name: str) -> Iterator[Path]:
    for number, content in enumerate(contents):
        path = folder / f"{number}-{name}"
        path.write_bytes(content)
        yield path


@pytest.mark.parametrize(
    ("name", "content"), [("x.dcm", part10(GOOD)), ("x.png", small_png())], ids=["dicom", "png"]
)
def test_a_small_file_cut_at_every_offset_is_rejected(tmp_path: Path, name: str, content: bytes) -> None:
    assert len(content) <= 2000
    cuts = (content[:size] for size in range(len(content)))
    with Jail(read_pixels, workers=1, limits=HOSTILE_LIMITS) as jail:
        results = [result for _, result in jail.imap(written(tmp_path, cuts, name))]
    assert len(results) == len(content)
    assert all(isinstance(result, ImageRejected) for result in results)
    assert not any(isinstance(result, DecoderFailed) for result in results)


LARGE = ("CT_small.dcm", "JPEG2000.dcm", "MR_small_RLE.dcm", "emri_small_jpeg_ls_lossless.dcm")


@pytest.mark.parametrize("name", LARGE)
def test_a_large_file_cut_at_seeded_offsets_is_rejected_or_whole(tmp_path: Path, name: str) -> None:
    (content,) = (path.read_bytes() for path in real_files() if path.name == name)
    whole = tmp_path / name
    whole.write_bytes(content)
    expected = read_frame(whole)
    rng = random.Random(zlib.crc32(name.encode()))
    cuts = (content[: rng.randrange(len(content))] for _ in range(300))
    with Jail(read_pixels, workers=1, limits=HOSTILE_LIMITS) as jail:
        for _, result in jail.imap(written(tmp_path, cuts, name)):
            assert not isinstance(result, DecoderFailed)
            if not isinstance(result, ImageRejected):
                np.testing.assert_array_equal(result, expected)  # what was cut came after the frame


def test_seeded_mutations_never_crash_a_decoder(tmp_path: Path) -> None:
    files = corpus()
    contents = [data for _, data in files]

    def damaged() -> Iterator[bytes]:
        for seed in range(MUTATIONS):
            rng = random.Random(seed)
            yield mutate(rng.choice(contents), rng, contents)

    with Jail(read_both, workers=2, limits=HOSTILE_LIMITS) as jail:
        results = [result for _, result in jail.imap(written(tmp_path, damaged(), "x"))]
    assert len(results) == MUTATIONS
    assert [str(result) for result in results if isinstance(result, DecoderFailed)] == []
    assert sum(not isinstance(result, ImageRejected) for result in results) > MUTATIONS // 20


PIXEL_TAGS = [
    0x00280000 + number for number in (2, 4, 6, 8, 0x10, 0x11, 0x30, 0x34, 0x100, 0x101, 0x102, 0x103)
]
VALUE_TAGS = [0x00280120, 0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00283000, 0x00283010]
OTHER_TAGS = [0x00091010, 0x52009229, 0x52009230, 0x7FE00001]
TAGS = st.sampled_from([*PIXEL_TAGS, *VALUE_TAGS, *OTHER_TAGS])
VRS = st.sampled_from(["US", "SS", "DS", "IS", "CS", "SQ", "UN", "OB", "OW", "FD", "UI", "SH"])
TEXTS = st.sampled_from([b"0", b"-1", b"NaN", b"1e400", b"4", b"1\\2", b"\\", b"RGB ", b"PALETTE COLOR "])
ITEMS = st.binary(max_size=40).map(lambda data: item(data + b"\0" * (len(data) % 2)))
VALUES = st.one_of(
    st.binary(max_size=40), TEXTS, ITEMS, st.integers(0, 65535).map(lambda n: n.to_bytes(2, "little"))
)


def pixels_or_rejection(path: Path) -> NDArray[np.uint8] | ImageRejected:
    try:
        return read_frame(path, limits=Limits(max_pixels=10_000))
    except ImageRejected as error:
        return error


ELEMENTS = st.builds(element, TAGS, VRS, VALUES)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ELEMENTS, max_size=6), st.booleans(), st.binary(max_size=64))
def test_any_elements_give_pixels_or_a_rejection(
    tmp_path: Path, extra: list[bytes], first: bool, pixels: bytes
) -> None:
    elements = b"".join(extra)
    module = elements + image_elements() if first else image_elements() + elements
    path = tmp_path / "x.dcm"
    path.write_bytes(part10(module + element(0x7FE00010, "OW", pixels)))
    outcome = pixels_or_rejection(path)
    if isinstance(outcome, ImageRejected):
        assert outcome.what
        assert outcome.where == "x.dcm"
    else:
        assert outcome.dtype == np.uint8
        assert outcome.ndim in (2, 3)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.sampled_from([0, 128, 132]))
def test_any_bytes_give_a_rejection(tmp_path: Path, content: bytes, padding: int) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes((bytes(128) + b"DICM")[:padding] + content)
    with pytest.raises(ImageRejected):
        read_frame(path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.binary(max_size=30), st.integers(0, 2**32 - 1) | st.none()), max_size=5))
def test_any_fragments_give_pixels_or_a_rejection(
    tmp_path: Path, fragments: list[tuple[bytes, int | None]]
) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(encapsulated(b"".join(item(data, length) for data, length in fragments)))
    with pytest.raises(ImageRejected):
        read_frame(path)


def test_a_good_compressed_frame_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(encapsulated(item(b"") + item(jpeg(4, 4))))
    assert np.abs(read_frame(path).astype(int) - PIXELS).max() < 12
