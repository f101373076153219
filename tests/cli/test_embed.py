from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from clinical_clip.data.load import load_pixels
from clinical_clip.data.source import open_source
from clinical_clip.embed.encoders import open_encoder
from clinical_clip.types import ImageRecord
from tests.cli.conftest import Outcome
from tests.embed.pictures import write_pictures


def test_embed_writes_ids_and_vectors(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    names = write_pictures(tmp_path / "in", 7)
    done = cli("embed", tmp_path / "in", "--out", tmp_path / "out.npz")
    assert done.code == 0
    assert "7 images × 1280" in done.err
    encoder = open_encoder()
    records = [item for item in open_source(tmp_path / "in") if isinstance(item, ImageRecord)]
    prepared = np.stack([encoder.preprocessing.apply(load_pixels(record)) for record in records])
    with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
        assert arrays["ids"].tolist() == names
        assert np.array_equal(arrays["vectors"], encoder.encode_images(prepared))
        assert arrays["encoder_digest"] == encoder.digest


def test_encoder_verbs(cli: Callable[..., Outcome]) -> None:
    assert "imagenet-lite0" in cli("encoder", "list").out
    checked = cli("encoder", "check")
    assert (checked.code, "cosine to the original ≥ 0.9999" in checked.out) == (0, True)


def test_version_and_help(cli: Callable[..., Outcome]) -> None:
    assert cli("--version").out.startswith("clinical-clip 0.")
    helped = cli("--help")
    assert helped.code == 0
    assert all(verb in helped.out for verb in ("embed", "index", "search", "evaluate", "demo"))
