"""What one file may cost, checked before anything is allocated for it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from clinical_clip.errors import OptionError

__all__ = ["DEFAULT_LIMITS", "Limits"]

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Caps on one file. A file past any of them is a ``LimitExceeded``, never a crash.

    Attributes:
        max_file_bytes: size of the file on disk.
        max_pixels: rows x columns of one frame (or page, or picture).
        max_frames: frames (or pages) in one file.
        max_nesting: depth of sequences within sequences in a DICOM data set.
        max_inflated_bytes: output of a deflated transfer syntax or a compressed file.
        max_header_bytes: bytes before the pixel data that are read into memory.
        timeout_s: seconds that a decoder process may spend on one item.
        memory_bytes: bytes that a decoder process may hold above its idle size.

    Raises:
        OptionError: a cap that is not positive.

    >>> Limits(max_frames=10).max_frames
    10
    """

    max_file_bytes: int = 4096 * _MIB
    max_pixels: int = 50_000_000
    max_frames: int = 65_536
    max_nesting: int = 32
    max_inflated_bytes: int = 128 * _MIB
    max_header_bytes: int = 64 * _MIB
    timeout_s: float = 30.0
    memory_bytes: int = 1024 * _MIB

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise OptionError(f"{field.name} must be positive", where="limits", hint="raise the limit")


DEFAULT_LIMITS = Limits()
"""The caps that apply where none are given."""
