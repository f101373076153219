"""The table of real files in the guide says what is so."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tests.dicom.reference import real_files
from tests.dicom.table import HEAD, rows


@pytest.mark.full
def test_the_guide_shows_the_table_that_is_measured() -> None:
    if not any(path.name == "OBXXXX1A.dcm" for path in real_files()):
        pytest.skip("pydicom-data is not installed: pip install pydicom-data")
    page = (Path(__file__).parents[2] / "docs" / "guide" / "pixels.md").read_text()
    try:
        assert page[page.index(HEAD) :].splitlines() == list(rows())
    finally:
        logging.disable(logging.NOTSET)
