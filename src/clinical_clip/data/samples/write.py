"""Files that appear whole or not at all, by one build at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clinical_clip.atomic import replace_file
from clinical_clip.errors import SourceError

__all__ = ["sole_builder", "write_whole"]

_LEFT_OVER = ".*.tmp"
_LOCK = ".lock"


@contextmanager
def sole_builder(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for one build; what a killed build left half-written is removed first.

    Raises:
        SourceError: another build is at work there, or the folder cannot be written to.
    """
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unwritable(folder, error) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SourceError(
                "another build is at work here", where=str(folder), hint="wait for it to end, then run again"
            ) from None
        for left in folder.rglob(_LEFT_OVER):
            left.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


def write_whole(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` durably, by a temporary file beside it; nothing to do where it is there.

    Raises:
        StoreError: the folder cannot be written to.
    """
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    with replace_file(path) as stream:
        stream.write(data)


def _unwritable(path: Path, error: OSError) -> SourceError:
    return SourceError(
        f"cannot be written ({error.strerror or type(error).__name__})",
        where=str(path),
        hint="choose a folder with space and write permission",
    )
