"""The one protocol that every encoder meets, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from clinical_clip.embed.preprocess import Preprocessing

__all__ = ["Encoder", "l2_normalise"]


@runtime_checkable
class Encoder(Protocol):
    """Images, and perhaps texts, to L2-normalised vectors of one space.

    Attributes:
        name: short name shown to people.
        width: D, the vectors' width.
        digest: SHA-256 (hex) over the weights; stored with every index made by this encoder.
        preprocessing: what brings pixels to the encoder's input; has a digest of its own.
        has_text: whether ``encode_texts`` can be called.
    """

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int: ...

    @property
    def digest(self) -> str: ...

    @property
    def preprocessing(self) -> Preprocessing: ...

    @property
    def has_text(self) -> bool: ...

    def encode_images(self, image_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (B, S, S, 3), preprocessed → float32 (B, D), each row of norm 1."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """B texts → float32 (B, D), each row of norm 1. Raises TextUnsupported without a text tower."""
        ...


def l2_normalise(vectors_ND: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows divided by their Euclidean norm; rows of zeros stay zero.

    Args:
        vectors_ND: (N, D), any float dtype.

    Returns:
        float32 (N, D).

    >>> l2_normalise(np.array([[3.0, 4.0], [0.0, 0.0]])).round(3).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    wide_ND = vectors_ND.astype(np.float64)
    norm_N1 = np.linalg.norm(wide_ND, axis=1, keepdims=True)
    unit_ND = np.divide(wide_ND, norm_N1, out=np.zeros_like(wide_ND), where=norm_N1 > 0)
    return np.asarray(unit_ND, dtype=np.float32)
