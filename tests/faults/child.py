"""The process that is killed: adds, removes and rebuilds without end, and says what it does.

``python -m tests.faults.child FOLDER FIRST``: image numbers begin at FIRST. Each line on stdout is one word
and image numbers: ``adding`` before, ``added`` after the acknowledgement; ``removing``, ``removed``;
``rebuilt``.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinical_clip.index import Library
from clinical_clip.types import ImageRecord, Patient

WIDTH = 16


def record(number: int) -> ImageRecord:
    """Image ``number``."""
    return ImageRecord(
        image_id=f"image-{number}",
        path=Path(f"/nowhere/{number}.png"),
        relative_path=f"{number}.png",
        fields={"modality": ("CT", "MR")[number % 2]},
        patient=Patient(patient_id=str(number // 5)),
    )


def vector(number: int) -> NDArray[np.float32]:
    """Its vector."""
    drawn = np.random.default_rng(number).standard_normal(WIDTH)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def create(folder: Path) -> None:
    """An empty library."""
    Library.create(
        folder, encoder_name="fault", width=WIDTH, encoder_digest="-", preprocessing_digest="-"
    ).close()


def say(word: str, numbers: Sequence[int] = ()) -> None:
    """One whole line at once: a kill must not cut it in two."""
    sys.stdout.write(f"{word} {' '.join(map(str, numbers))}\n")
    sys.stdout.flush()


def work(folder: Path, first: int) -> None:
    """Go on until killed, or for 400 rounds."""
    dice = random.Random(first)
    mine: list[int] = []
    with Library.open(folder, writable=True) as library:
        say("opened")
        for turn in range(400):
            batch = list(range(first, first + dice.randrange(1, 12)))
            first = batch[-1] + 1
            again = dice.sample(mine, min(3, len(mine)))
            say("adding", batch)
            library.add([(record(number), vector(number)) for number in [*batch, *again]])
            say("added", batch)
            mine += batch
            if turn % 3 == 2:
                doomed = dice.sample(mine, 4)
                say("removing", doomed)
                library.remove([record(number).image_id for number in doomed])
                say("removed", doomed)
                mine = [number for number in mine if number not in doomed]
            if turn % 5 == 4:
                library.rebuild()
                say("rebuilt")


if __name__ == "__main__":
    if sys.argv[1] == "create":
        create(Path(sys.argv[2]))
    else:
        work(Path(sys.argv[1]), int(sys.argv[2]))
