"""Checking vectors and rounding them to the stored form."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clinical_clip.errors import VectorError

__all__ = ["NORM_TOLERANCE", "as_stored", "as_unit_queries", "check_shape"]

NORM_TOLERANCE = 1e-3
"""How far from 1 the norm of an added or stored vector may be."""


def check_shape(vectors: ArrayLike, width: int) -> NDArray[np.float32]:
    """``vectors`` as finite float32 of shape (N, width); one vector (width,) becomes (1, width).

    Raises:
        VectorError: another width, or NaN or infinity in it.
    """
    vectors_ND = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
    if vectors_ND.ndim != 2 or vectors_ND.shape[1] != width:
        raise VectorError(
            f"a vector of shape {vectors_ND.shape[1:]} where the index holds width {width}",
            hint="embed with the encoder that made the index (see index info)",
        )
    bad = np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))
    if bad.size:
        raise VectorError(
            "a vector holds NaN or infinity", where=f"row {bad[0]}", hint="check the encoder's output"
        )
    return vectors_ND


def as_stored(vectors: ArrayLike, width: int) -> NDArray[np.float16]:
    """Unit vectors (N, width) rounded to little-endian float16, ready to store.

    The norm left over within the tolerance is divided out in float64 first, so that what is stored has
    norm 1 to float16's precision. A vector that is float16 already stays as it is: stored once, it does not
    change when it is stored again.

    Raises:
        VectorError: wrong width, NaN, or a norm outside 1 ± 1e-3.
    """
    vectors_ND = check_shape(vectors, width).astype(np.float64)
    norms_N = np.linalg.norm(vectors_ND, axis=1)
    off = np.flatnonzero(np.abs(norms_N - 1) > NORM_TOLERANCE)
    if off.size:
        raise VectorError(
            f"a vector of norm {norms_N[off[0]]:.6g} where 1 ± {NORM_TOLERANCE:g} is expected",
            where=f"row {off[0]}",
            hint="divide vectors by their L2 norm in float32 before adding them",
        )
    stored_ND: NDArray[np.float16] = (vectors_ND / norms_N[:, None]).astype("<f2")
    as_given_ND = vectors_ND.astype("<f2")
    exact_N = (as_given_ND == vectors_ND).all(axis=1)
    stored_ND[exact_N] = as_given_ND[exact_N]
    return stored_ND


def as_unit_queries(vectors: ArrayLike, width: int) -> NDArray[np.float64]:
    """Query vectors as float64 (Q, width) of norm 1; any positive length is accepted.

    Raises:
        VectorError: wrong width, NaN, or a zero vector, which has no direction to search in.
    """
    queries_QD = check_shape(vectors, width).astype(np.float64)
    norms_Q = np.linalg.norm(queries_QD, axis=1)
    if (norms_Q < 1e-12).any():
        raise VectorError("a query vector of length 0 has no direction", hint="check the query's image")
    unit_QD: NDArray[np.float64] = queries_QD / norms_Q[:, None]
    return unit_QD
