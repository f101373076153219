"""Every row of the hostile table: a typed rejection or exact pixels, in bounded time and memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.hostile.measure import read_and_measure
from tests.hostile.rows import ROWS, Row, table
from tests.hostile.target import HOSTILE_LIMITS, load_shape

from clinical_clip.data.jail import Jail
from clinical_clip.data.source import open_source
from clinical_clip.dicom.limits import Limits
from clinical_clip.errors import DecoderFailed, ImageRejected
from clinical_clip.types import Rejection

MOST_BYTES = 300_000_000


@pytest.fixture(scope="module")
def jail() -> Iterator[Jail[Path, tuple[int, str, str, object]]]:
    with Jail(read_and_measure, workers=1, limits=Limits(timeout_s=30.0, memory_bytes=400 << 20)) as made:
        yield made


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row: Row, jail: Jail[Path, tuple[int, str, str, object]], tmp_path: Path) -> None:
    path = tmp_path / f"x{row.suffix}"
    path.write_bytes(row.content)
    peak_bytes, kind, text, pixels = jail.call(path)
    assert peak_bytes < MOST_BYTES
    if row.error is None:
        assert text == ""
        np.testing.assert_array_equal(pixels, row.pixels)
    else:
        assert kind == row.error.__name__
        assert row.words in text
        assert path.name in text


def test_the_run_goes_on_and_nothing_is_uncounted(tmp_path: Path) -> None:
    for number, row in enumerate(ROWS):
        (tmp_path / f"{number:03}{row.suffix}").write_bytes(row.content)
    source = open_source(tmp_path, limits=HOSTILE_LIMITS)
    found = list(source)
    counts = source.counts
    assert counts.files == len(ROWS)
    assert counts.files == counts.used + counts.rejected + counts.ignored
    rejections = [one for one in found if isinstance(one, Rejection)]
    records = [one for one in found if not isinstance(one, Rejection)]
    assert all(one.what and one.code for one in rejections)
    for record in records:
        assert "/" not in record.image_id
        assert ".." not in record.image_id
    with Jail(load_shape, workers=2, limits=HOSTILE_LIMITS) as jail:
        results = list(jail.imap(records))
    assert [record for record, _ in results] == records
    failed = [result for _, result in results if isinstance(result, ImageRejected)]
    assert not [result for result in failed if isinstance(result, DecoderFailed)]
    indexed = {record.path for record, result in results if not isinstance(result, ImageRejected)}
    assert len(indexed) == len(results) - len(failed)
    assert len(ROWS) == len(indexed) + len(failed) + len(rejections)


def test_the_page_says_what_the_tests_prove() -> None:
    page = Path(__file__).parents[2] / "docs" / "hostile.md"
    assert page.read_text() == table()
