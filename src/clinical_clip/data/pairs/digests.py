"""Which images are the same, byte for byte or to the eye."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from clinical_clip.data.files import content_id, open_regular
from clinical_clip.data.pairs.pair import Pair, RowProblem
from clinical_clip.data.pairs.pixels import load_pair_pixels
from clinical_clip.errors import ImageRejected

__all__ = ["content_digests", "look_alikes", "perceptual_hash", "pixel_hashes"]

_SIDE = 32
_KEPT = 8
_BLOCK = 2048
Progress = Callable[[int, int], None]


def content_digests(
    pairs: Iterable[Pair], problems: list[RowProblem], progress: Progress | None = None
) -> dict[str, str]:
    """SHA-256 of the image file, with its frame, by pair id. Files that cannot be read are listed."""
    chosen = [pair for pair in pairs if pair.has_image]
    digests: dict[str, str] = {}
    files: dict[str, str] = {}
    for number, pair in enumerate(chosen, start=1):
        try:
            name = str(pair.image)
            if name not in files:
                with open_regular(pair.image) as file:
                    files[name] = content_id(file)
            digests[pair.pair_id] = f"{files[name]}#{pair.frame}"
        except (OSError, ImageRejected) as error:
            why = error.what if isinstance(error, ImageRejected) else (error.strerror or "cannot be read")
            problems.append(RowProblem(where=pair.pair_id, what=why))
        if progress is not None:
            progress(number, len(chosen))
    return digests


def pixel_hashes(
    pairs: Iterable[Pair], problems: list[RowProblem], progress: Progress | None = None
) -> dict[str, int]:
    """Perceptual hash by pair id; images that cannot be decoded are listed."""
    chosen = [pair for pair in pairs if pair.has_image]
    hashes: dict[str, int] = {}
    for number, pair in enumerate(chosen, start=1):
        try:
            hashes[pair.pair_id] = perceptual_hash(load_pair_pixels(pair))
        except ImageRejected as error:
            problems.append(RowProblem(where=pair.pair_id, what=error.what))
        if progress is not None:
            progress(number, len(chosen))
    return hashes


def perceptual_hash(pixels: NDArray[np.uint8]) -> int:
    """64 bits that survive scaling and recompression (Zauner 2010, "pHash").

    The picture in grey at 32x32, its 8x8 lowest cosine frequencies, each bit: above their median or not.

    Args:
        pixels: (H, W) grey or (H, W, 3) RGB, uint8.
    """
    import cv2

    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.ndim == 3 else pixels
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:_KEPT, :_KEPT].ravel()
    bits = low > np.median(low[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def look_alikes(hashes: dict[str, int], *, most: int = 4) -> dict[str, str]:
    """A name for each group of pairs whose hashes differ by ``most`` bits or fewer, link by link.

    Pairs without a look-alike are left out. Takes time quadratic in the number of hashes: a second for
    10,000, a minute for 80,000.
    """
    codes, at = np.unique(np.array(list(hashes.values()), dtype=np.uint64), return_inverse=True)
    parent = list(range(len(codes)))

    def root(one: int) -> int:
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    for start in range(0, len(codes), _BLOCK):
        block = codes[start : start + _BLOCK]
        distance = np.bitwise_count(block[:, None] ^ codes[None, start:])
        for row, column in zip(*np.nonzero(distance <= most), strict=True):
            if row < column:
                first, second = root(start + int(row)), root(start + int(column))
                parent[max(first, second)] = min(first, second)
    groups: dict[int, list[str]] = {}
    for name, number in zip(hashes, at, strict=True):
        groups.setdefault(root(int(number)), []).append(name)
    return {
        name: hashlib.sha256(members[0].encode("utf-8", "surrogatepass")).hexdigest()
        for members in groups.values()
        if len(members) > 1
        for name in members
    }
