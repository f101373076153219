"""The rows of the table at full size, from random weights in the published formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from clinical_clip.model.methods import row
from clinical_clip.train.rows import check_rows


@pytest.mark.full
@pytest.mark.parametrize("name", ["CLIP-RN50", "Clinical CLIP-ViT-B/32"])
def test_a_row_is_as_published_takes_two_steps_and_reloads(tmp_path: Path, name: str) -> None:
    (checked,) = check_rows([], weights=tmp_path / "weights", threads=2, rows=[row(name)])
    assert checked.as_published
    assert checked.reloads
    assert len(checked.losses) == 2
