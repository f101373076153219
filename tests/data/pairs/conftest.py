"""The real ROCO files, read once for all tests that look at them."""

from __future__ import annotations

import pytest
from tests.data.pairs.made import NO_SHARED, SHARED

from clinical_clip.data.pairs import PairSet, open_pairs


@pytest.fixture(scope="session")
def real_roco() -> PairSet:
    if not (SHARED / "roco").is_dir():
        pytest.skip(NO_SHARED)
    return open_pairs(SHARED / "roco", require_images=False)
