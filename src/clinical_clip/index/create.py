"""Making an empty library: all of it, or nothing."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinical_clip.errors import StoreError
from clinical_clip.index.catalogue import Catalogue, Made
from clinical_clip.index.exact import ExactIndex
from clinical_clip.index.follow import refill
from clinical_clip.index.protocol import VectorRows
from clinical_clip.index.storage import fsync_folder, store_errors

__all__ = ["create_folder"]


def create_folder(path: Path, *, made: Made) -> None:
    """Write an empty library beside ``path`` and rename it, so that a crash leaves nothing half made.

    Raises:
        StoreError: something is there already, or the disk refuses.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StoreError("there is something already", where=str(path), hint="choose an empty or new folder")
    absolute = path.absolute()
    temporary = absolute.with_name(f".{absolute.name}.{secrets.token_hex(4)}.tmp")
    with store_errors(str(path)):
        absolute.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir(mode=0o700)
        try:
            _fill(temporary, made)
            os.replace(temporary, absolute)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync_folder(absolute.parent)


def _fill(folder: Path, made: Made) -> None:
    Catalogue.create(folder, made=made)
    catalogue = Catalogue(folder, writable=True)
    index = ExactIndex(
        folder, library_id=made.library_id, width=made.width, writable=True, repair=_nothing_to_mend
    )
    with catalogue.reading() as connection:
        refill(index, catalogue, connection)
    index.close()
    catalogue.close()


def _nothing_to_mend(_slots: NDArray[np.int64]) -> VectorRows:
    raise AssertionError("an empty matrix has nothing to mend")
