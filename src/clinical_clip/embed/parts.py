"""Part files of a bulk run: what is finished survives kill -9 and is not done again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from clinical_clip.atomic import replace_file
from clinical_clip.errors import IndexMismatch
from clinical_clip.types import ImageRecord

__all__ = ["Part", "PartStore"]


@dataclass(frozen=True, slots=True)
class Part:
    """Some finished images; ``vectors_ND`` is float32 (N, D)."""

    names: list[str]
    image_ids: list[str]
    vectors_ND: NDArray[np.float32]


class PartStore:
    """A folder ``<out>.parts`` beside the output: a plan and numbered part files.

    Args:
        folder: made if absent.
        plan: what the parts depend on (encoder, preprocessing, source). Parts of another plan are
            refused, never mixed.

    Raises:
        IndexMismatch: the folder holds the parts of another plan.
    """

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        self._folder = folder
        path = folder / "plan.json"
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found != plan:
                different = sorted(key for key in plan if found.get(key) != plan[key])
                raise IndexMismatch(
                    f"an unfinished run with another {', '.join(different)} is here",
                    where=str(folder),
                    hint="finish it with the settings it was started with, or delete the folder",
                )
        else:
            with replace_file(path) as stream:
                stream.write(json.dumps(plan, indent=2).encode())
        self._next = 1 + max((int(path.stem) for path in folder.glob("[0-9]*.npz")), default=-1)

    def read(self) -> Iterator[Part]:
        """Finished parts in the order they were written; a damaged one is dropped and done again."""
        for path in sorted(self._folder.glob("[0-9]*.npz")):
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    yield Part(arrays["names"].tolist(), arrays["image_ids"].tolist(), arrays["vectors"])
            except (OSError, ValueError, KeyError, BadZipFile):
                path.unlink()

    def write(self, records: list[ImageRecord], vectors_ND: NDArray[np.float32]) -> None:
        """Write one part, durably. Rejected files are not kept: a later run tries them again."""
        with replace_file(self._folder / f"{self._next:06d}.npz") as stream:
            np.savez(
                stream,
                names=np.array([record.name for record in records], dtype=np.str_),
                image_ids=np.array([record.image_id for record in records], dtype=np.str_),
                vectors=vectors_ND,
            )
        self._next += 1

    def remove(self) -> None:
        """Delete the folder: the output is whole. The plan goes last."""
        for path in self._folder.glob("[0-9]*.npz"):
            os.unlink(path)
        shutil.rmtree(self._folder)
