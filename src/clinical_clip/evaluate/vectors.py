"""Stored vectors: ``.npz`` files with ``ids`` (paths relative to the image root) and ``vectors``.

Shape suffixes: N rows, D width.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinical_clip.atomic import replace_file
from clinical_clip.errors import EvaluationError, SourceError, VectorError

__all__ = ["StoredVectors", "align", "load_vectors", "normalise", "save_vectors"]

Vectors = NDArray[np.float32]
_FACTS = ("encoder", "encoder_digest", "preprocessing_digest")


def normalise(vectors_ND: NDArray[np.floating], names: Sequence[str], *, zero_ok: bool = False) -> Vectors:
    """L2-normalised float32 copy.

    Args:
        vectors_ND: one vector a row.
        names: what to call the rows in an error.
        zero_ok: keep zero vectors, which then score 0 with every other, instead of refusing them.

    Raises:
        VectorError: a vector holds NaN or infinity, or has length 0.
    """
    if vectors_ND.ndim != 2 or not vectors_ND.shape[1] or len(vectors_ND) != len(names):
        raise VectorError(
            f"vectors of shape {vectors_ND.shape} for {len(names)} images",
            where="vectors",
            hint="one row of numbers for each image is needed",
        )
    wide_ND = vectors_ND.astype(np.float64)
    norm_N = np.linalg.norm(wide_ND, axis=1)
    bad_N = ~np.isfinite(norm_N) | ((norm_N == 0) & (not zero_ok))
    if bad_N.any():
        first = names[int(np.flatnonzero(bad_N)[0])]
        raise VectorError(
            f"{int(bad_N.sum())} vectors are NaN, infinite or zero",
            where=first,
            hint="embed these images again",
        )
    wide_ND /= np.where(norm_N > 0, norm_N, 1.0)[:, None]
    return wide_ND.astype(np.float32)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StoredVectors:
    """A file of vectors; the digests are empty where the file does not tell them."""

    ids: list[str]
    vectors_ND: NDArray[np.floating]
    encoder: str = ""
    encoder_digest: str = ""
    preprocessing_digest: str = ""


def load_vectors(path: Path) -> StoredVectors:
    """The contents of a file written by ``clinical-clip embed`` or :func:`save_vectors`.

    Raises:
        SourceError: the file is missing, damaged or of another kind.
    """
    hint = "give a .npz file with arrays ids and vectors, as clinical-clip embed writes it"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            ids, vectors_ND = archive["ids"], archive["vectors"]
            facts = {name: str(archive[name]) for name in _FACTS if name in archive.files}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, TypeError, AttributeError) as error:
        raise SourceError(
            f"not a file of vectors ({type(error).__name__})", where=str(path), hint=hint
        ) from None
    if ids.ndim != 1 or vectors_ND.ndim != 2 or len(ids) != len(vectors_ND) or vectors_ND.dtype.kind != "f":
        raise SourceError(
            f"ids {ids.shape} and vectors {vectors_ND.shape} do not fit together", where=str(path), hint=hint
        )
    return StoredVectors(ids=[str(name) for name in ids], vectors_ND=vectors_ND, **facts)


def align(names: Sequence[str], stored: StoredVectors, *, where: str) -> Vectors:
    """The normalised vectors of ``names``, in their order; ``where`` names the file in an error.

    Raises:
        EvaluationError: some of the images have no vector there.
        VectorError: a vector cannot be used.
        SourceError: the file holds an id twice.
    """
    position = {name: i for i, name in enumerate(stored.ids)}
    if len(position) != len(stored.ids):
        raise SourceError("an id occurs twice", where=where, hint="embed again into a new file")
    missing = [name for name in names if name not in position]
    if missing:
        raise EvaluationError(
            f"{len(missing)} of {len(names)} images have no vector, the first is {missing[0]!r}",
            where=where,
            hint="ids are paths relative to --image-root; embed the rest, or narrow the rows with --rows",
        )
    return normalise(stored.vectors_ND[[position[name] for name in names]], names)


def save_vectors(path: Path, names: Sequence[str], vectors_ND: Vectors) -> None:
    """Write ids and vectors to ``path``, whole or not at all."""
    with replace_file(path) as stream:
        np.savez(stream, ids=np.array(names, dtype=np.str_), vectors=vectors_ND)
