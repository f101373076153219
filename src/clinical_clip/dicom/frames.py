"""The frame policy: how many images a file and a series give, which ones, and in what order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from clinical_clip.dicom.header import DicomHeader
from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.dicom.read import read_frame_positions
from clinical_clip.errors import OptionError

__all__ = ["DEFAULT_FRAMES", "FramePolicy", "evenly_spaced", "position_key", "select_frames"]

_ENHANCED_CODES = "2.1 2.2 4.1 4.3 4.4 6.2 13.1.1 13.1.2 13.1.3 77.1.5.4 128.1 130"
_ENHANCED = frozenset(f"1.2.840.10008.5.1.4.1.1.{code}" for code in _ENHANCED_CODES.split())
"""SOP classes whose frames have a place in space of their own (PS3.3 C.7.6.16.2.3)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FramePolicy:
    """Bounds on the images that one file and one series contribute.

    Of a longer file or series, evenly spaced images are taken: of ``n`` images in order, the middles of
    ``k`` equal parts. So the choice depends on the files alone, and the same tree gives the same images.

    Attributes:
        max_per_series: images of one series (localizers count as a series of their own).
        max_per_file: frames of a multi-frame file, slices of a volume, pages of a TIFF.

    Raises:
        OptionError: a bound below 1.
    """

    max_per_series: int = 24
    max_per_file: int = 24

    def __post_init__(self) -> None:
        if min(self.max_per_series, self.max_per_file) < 1:
            raise OptionError(
                "a frame policy takes at least 1 image", where="frame policy", hint="use 1 or more"
            )


DEFAULT_FRAMES = FramePolicy()
"""The bounds that apply where none are given."""


def evenly_spaced(n: int, k: int) -> list[int]:
    """The middles of ``k`` equal parts of ``range(n)``, ascending; all of it where ``n <= k``.

    >>> evenly_spaced(10, 3), evenly_spaced(3, 5), evenly_spaced(9, 1)
    ([1, 5, 8], [0, 1, 2], [4])
    """
    return list(range(n)) if n <= k else [(2 * i + 1) * n // (2 * k) for i in range(k)]


def position_key(
    position: tuple[float, ...] | None, orientation: tuple[float, ...] | None
) -> tuple[tuple[float, ...], float] | None:
    """Sort key of a slice: its stack (the orientation, rounded) and its place along the stack's normal, mm.

    The place is Image Position (Patient) times the cross product of the row and column cosines
    (PS3.3 C.7.6.2.1.1). None where the geometry is missing or degenerate.

    >>> position_key((0, 0, 7.5), (1, 0, 0, 0, 1, 0))
    ((1, 0, 0, 0, 1, 0), 7.5)
    """
    if position is None or orientation is None:
        return None
    ax, ay, az, bx, by, bz = orientation
    normal = (ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx)
    length = math.hypot(*normal)
    if not 0.5 < length < 2:
        return None
    place = sum(p * n for p, n in zip(position, normal, strict=True)) / length
    stack = tuple(round(one, 2) + 0 for one in orientation)
    return (stack, round(place, 3)) if math.isfinite(place) else None


def select_frames(
    header: DicomHeader, path: Path, policy: FramePolicy, *, limits: Limits = DEFAULT_LIMITS
) -> list[int]:
    """Frames of one file that are indexed: in order along the normal where they have a place, else in time.

    Args:
        header: of the file.
        path: the file, read again only where an enhanced multi-frame object has more frames than allowed.
        policy: the bound.
        limits: for that second reading.
    """
    order = list(range(header.n_frames))
    if header.n_frames > policy.max_per_file and header.sop_class_uid in _ENHANCED:
        order = _in_space(order, path, limits)
    return [order[i] for i in evenly_spaced(len(order), policy.max_per_file)]


def _in_space(order: list[int], path: Path, limits: Limits) -> list[int]:
    places = read_frame_positions(path, limits=limits)
    keys = [position_key(position, orientation) for position, orientation in places]
    if len(keys) != len(order) or None in keys:
        return order
    return sorted(order, key=lambda frame: (keys[frame], frame))
