"""Writing files so that a crash leaves the old one or the new one, and naming what the disk refuses."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import exc

from clinical_clip.errors import IndexBusy, IndexCorrupt, StoreError
from clinical_clip.index import failpoints

__all__ = ["fsync_folder", "store_errors", "write_atomic", "write_fully"]

_HINTS = {
    errno.ENOSPC: ("the disk is full", "free some space, then run it again; what was acknowledged is kept"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, then run it again"),
    errno.EROFS: ("the file system is read-only", "open the index without writing, or copy it elsewhere"),
    errno.EACCES: ("permission denied", "check who owns the index's folder"),
    errno.EPERM: ("permission denied", "check who owns the index's folder"),
    errno.EIO: ("the disk reports an input/output error", "check the disk, then run index verify"),
}

_SQLITE = (
    ("disk is full", StoreError, "the disk is full", "free some space, then run it again"),
    ("disk i/o error", StoreError, "the disk refuses to write or read", "check its space and health"),
    ("readonly database", StoreError, "the index is read-only", "check its folder's permissions"),
    ("unable to open", StoreError, "the catalogue cannot be opened", "check the folder's permissions"),
    ("database is locked", IndexBusy, "another process is writing", "wait for it to end, then try again"),
    ("malformed", IndexCorrupt, "the catalogue is damaged", "restore a copy, or index the source again"),
    ("not a database", IndexCorrupt, "the catalogue is damaged", "restore a copy, or index the source again"),
)


@contextmanager
def store_errors(where: str) -> Iterator[None]:
    """Turn what the operating system and SQLite raise into the project's store errors.

    Raises:
        StoreError, IndexBusy, IndexCorrupt: naming ``where`` and never the data of a statement.
    """
    try:
        yield
    except OSError as error:
        what, hint = _HINTS.get(error.errno or 0, (os.strerror(error.errno or 0), "check the disk"))
        raise StoreError(what, where=where, hint=hint) from error
    except UnicodeDecodeError:
        raise IndexCorrupt("the catalogue's text is damaged", where=where, hint="run index verify") from None
    except exc.DBAPIError as error:
        said = str(error.orig)
        for part, kind, what, hint in _SQLITE:
            if part in said.lower():
                raise kind(what, where=where, hint=hint) from None
        kind = IndexCorrupt if isinstance(error, exc.DatabaseError) else StoreError
        raise kind(f"the catalogue refuses: {said}", where=where, hint="run index verify") from None


def fsync_folder(folder: Path) -> None:
    """Make renames and new names in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes, *, step: str) -> None:
    """Replace ``path`` by ``data``: temporary file beside it, fsync, rename, fsync of the folder.

    Args:
        path: the file to replace.
        data: its new content.
        step: prefix of the failpoints passed on the way.
    """
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        failpoints.reach(f"{step}.temp-written")
        os.fsync(file.fileno())
    failpoints.reach(f"{step}.before-rename")
    os.replace(temporary, path)
    failpoints.reach(f"{step}.renamed")
    fsync_folder(path.parent)


def write_fully(descriptor: int, data: memoryview, offset: int) -> None:
    """``pwrite`` all of ``data`` at ``offset``; a short write goes on until done or refused."""
    while data.nbytes:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
