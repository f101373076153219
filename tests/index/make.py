"""Small libraries for the tests of index and search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinical_clip.index import Library
from clinical_clip.types import FieldValue, ImageRecord, Patient

WIDTH = 24


def unit(rows: int, *, width: int = WIDTH, seed: int = 0) -> NDArray[np.float32]:
    """Random unit vectors (rows, width)."""
    vectors = np.random.default_rng(seed).standard_normal((rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def record(number: int, *, patient: str = "", **fields: FieldValue) -> ImageRecord:
    """A record whose id does not sort as its number does."""
    return ImageRecord(
        image_id=f"sha256:{(number * 7919) % 100_003:064x}#0",
        path=Path(f"/nowhere/{number}.png"),
        relative_path=f"{number}.png",
        fields=fields,
        patient=Patient(patient_id=patient, name="Doe^Jane") if patient else None,
    )


def create(folder: Path, *, width: int = WIDTH) -> Library:
    """An empty library, open for writing."""
    return Library.create(
        folder, encoder_name="test", width=width, encoder_digest="e" * 8, preprocessing_digest="p" * 8
    )


def fill(
    library: Library, records: Sequence[ImageRecord], vectors: NDArray[np.float32], *, batch: int = 64
) -> None:
    """Add in batches."""
    for at in range(0, len(records), batch):
        library.add(list(zip(records[at : at + batch], vectors[at : at + batch], strict=True)))


def brute_force(
    stored: dict[str, NDArray[np.float16]], query: NDArray[np.float64], k: int
) -> list[tuple[str, float]]:
    """Float64 cosines of every stored vector, rounded to 1e-6, best first, equal ones by id."""
    unit_query = query / np.sqrt((query * query).sum())
    scored = []
    for image_id, vector16 in stored.items():
        vector = vector16.astype(np.float64)
        cosine = float((vector * unit_query).sum() / np.sqrt((vector * vector).sum()))
        scored.append((round(cosine * 1e6), image_id))
    scored.sort(key=lambda pair: (-pair[0], pair[1]))
    return [(image_id, step / 1e6) for step, image_id in scored[:k]]
