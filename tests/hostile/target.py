"""What the jail runs for the hostile suite: read a file the way the product does, and tell what came."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import process_time

from clinical_clip.data.load import load_pixels
from clinical_clip.data.picture import page_count, read_picture
from clinical_clip.data.picture_headers import sniff
from clinical_clip.data.source import open_source
from clinical_clip.dicom.limits import Limits
from clinical_clip.dicom.pixels import read_frame
from clinical_clip.types import ImageRecord

HOSTILE_LIMITS = Limits(timeout_s=30.0, memory_bytes=300 << 20)
"""The bar of 300 MB above idle; the time is a guard, so that other work on the machine fails no test."""

MOST_CPU_S = 2.0
"""The bar of two seconds, of the decoder's own processor time."""


@contextmanager
def within_two_seconds() -> Iterator[None]:
    """Fail where what is inside took more, whatever came of it."""
    start = process_time()
    try:
        yield
    finally:
        if (spent_s := process_time() - start) > MOST_CPU_S:
            raise TimeoutError(f"{spent_s:.1f} s of processor time")


def load_shape(record: ImageRecord) -> tuple[int, ...]:
    """The shape of a record's pixels."""
    with within_two_seconds():
        return load_pixels(record, limits=HOSTILE_LIMITS).shape


def read_any(path: Path) -> tuple[int, ...]:
    """The shape of what was read; the file is a picture if its first bytes say so."""
    with path.open("rb") as file:
        is_picture = sniff(file.read(512))[1]
    if not is_picture:
        return read_frame(path, limits=HOSTILE_LIMITS).shape
    pages = page_count(path, limits=HOSTILE_LIMITS)
    return read_picture(path, min(1, pages - 1), limits=HOSTILE_LIMITS).shape


def read_both(path: Path) -> tuple[int, ...]:
    """``read_any``, after the header has been through the source's reader, whatever came of that."""
    with within_two_seconds():
        found = list(open_source(path, limits=HOSTILE_LIMITS))
        assert found
        return read_any(path)
