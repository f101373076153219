"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from clinical_clip.errors import SourceError

__all__ = ["write_whole"]


def write_whole(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` durably, by a temporary file beside it; nothing to do where it is there.

    Raises:
        SourceError: the folder cannot be written to.
    """
    temporary = ""
    try:
        if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = ""
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise SourceError(
            f"cannot be written ({error.strerror or type(error).__name__})",
            where=str(path),
            hint="choose a folder with space and write permission",
        ) from None
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
