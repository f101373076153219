"""Pictures and volumes made for tests."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from clinical_clip.data.source import Source
from clinical_clip.types import ImageRecord, Rejection


def write_picture(path: Path, seed: int = 0, size: tuple[int, int] = (12, 10)) -> Path:
    """A grey picture of noise; the suffix says the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_volume(path: Path, volume: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(volume, np.eye(4) if affine is None else affine).to_filename(path)
    return path


def split(source: Source) -> tuple[list[ImageRecord], list[Rejection]]:
    """All of a source, after a check that its counters add up and that it says the same a second time."""
    items = list(source)
    counts = source.counts
    assert counts.files == counts.used + counts.ignored + counts.duplicates + counts.rejected
    records = [one for one in items if isinstance(one, ImageRecord)]
    rejections = [one for one in items if isinstance(one, Rejection)]
    assert (counts.images, counts.rejected + counts.missing) == (len(records), len(rejections))
    assert list(source) == items
    return records, rejections
