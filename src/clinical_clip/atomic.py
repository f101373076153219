"""Files that are either whole or absent: temp beside the target, fsync, rename, fsync the folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from clinical_clip.errors import StoreError

__all__ = ["replace_file"]


@contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temp file for writing; on a clean exit it becomes ``path``, durably.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temp.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temp, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            temp.unlink()
        raise StoreError(
            f"cannot be written: {error.strerror or type(error).__name__}",
            where=str(path),
            hint="free some space or choose another folder, then run the same command again",
        ) from error
    except BaseException:
        with suppress(OSError):
            temp.unlink()
        raise
