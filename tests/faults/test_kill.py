"""kill -9 at random moments and at every named step: nothing acknowledged is lost, nothing half done."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from clinical_clip.errors import IndexNotFound
from clinical_clip.index import Library
from clinical_clip.index.failpoints import STEPS
from tests.faults import child

ROOT = Path(__file__).parents[2]


class Ledger:
    """What killed processes said they would do and had done, and what must therefore hold."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.next = 0
        self.tried: set[int] = set()
        self.must_be: set[int] = set()
        self.must_not_be: set[int] = set()

    def read(self, lines: Iterable[str]) -> None:
        """Take down one process's lines."""
        for line in lines:
            word, *numbers = line.split()
            images = set(map(int, numbers))
            match word:
                case "adding":
                    self.tried |= images
                    self.next = max(self.next, *images) + 1
                case "added":
                    self.must_be |= images
                case "removing":
                    self.must_be -= images
                case "removed":
                    self.must_not_be |= images

    def check(self) -> None:
        """Open what is left as a writer, as a restarted process would, and hold it against the ledger."""
        with Library.open(self.folder, writable=True) as library:
            assert library.notices == []  # mended by itself, not made anew
            report = library.verify(child.record(number).image_id for number in self.must_be)
            assert report.ok, report.problems
            assert report.missing == 0
            ids = library.ids()
            assert len(set(ids)) == len(ids) == len(library)
            held = {int(image_id.rpartition("-")[2]) for image_id in ids}
            assert self.must_be <= held <= self.tried
            assert not held & self.must_not_be
            numbers = sorted(held)
            found = library.vectors_of([child.record(number).image_id for number in numbers])
            wanted = [as_kept(child.vector(number)) for number in numbers]
            assert not numbers or np.array_equal(found, np.stack(wanted))
            searchable = library.snapshot().search(
                child.vector(0).astype(np.float64)[None], 10**6, tie_names=library.names_of
            )[0]
            assert len(searchable.slots) == len(held)


def as_kept(vector: NDArray[np.float32]) -> NDArray[np.float16]:
    """Divided by its norm in float64, then rounded."""
    exact = vector.astype(np.float64)
    return (exact / np.linalg.norm(exact)).astype("<f2")


def start(folder: Path, first: int, *, failpoint: str = "") -> subprocess.Popen[str]:
    environment = {**os.environ, "CLINICAL_CLIP_FAILPOINT": failpoint}
    command = [sys.executable, "-m", "tests.faults.child", str(folder), str(first)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    child.create(tmp_path / "lib")
    return Ledger(tmp_path / "lib")


def kill_at_random(ledger: Ledger, times: int, seed: int) -> int:
    """Kill and check ``times`` times, on one library that goes on. Returns the images at the end."""
    dice = random.Random(seed)
    for _ in range(times):
        process = start(ledger.folder, ledger.next)
        assert process.stdout is not None
        assert process.stdout.readline() == "opened \n"
        time.sleep(dice.uniform(0, 0.5))
        process.kill()
        said, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL
        ledger.read(said.splitlines())
        ledger.check()
    return len(ledger.must_be)


def test_killed_at_six_moments(ledger: Ledger) -> None:
    assert kill_at_random(ledger, 6, seed=1) > 0


@pytest.mark.full
def test_killed_at_sixty_moments(ledger: Ledger) -> None:
    assert kill_at_random(ledger, 60, seed=2) > 0


def kill_at_step(ledger: Ledger, step: str) -> None:
    process = start(ledger.folder, ledger.next, failpoint=step)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, f"{step} was never reached"
    ledger.read(said.splitlines())
    ledger.check()


def test_killed_at_every_step(ledger: Ledger) -> None:
    for number, step in enumerate(STEPS):
        kill_at_step(ledger, f"{step}:{1 + number % 3}")


@pytest.mark.full
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_every_step_again_and_again(ledger: Ledger, step: str) -> None:
    for nth in range(1, 8):
        kill_at_step(ledger, f"{step}:{nth}")


@pytest.mark.parametrize("step", ["rebuild.begun", "rebuild.before-switch", "sidecar.before-rename"])
def test_killed_while_a_library_is_made(tmp_path: Path, step: str) -> None:
    folder = tmp_path / "lib"
    command = [sys.executable, "-m", "tests.faults.child", "create", str(folder)]
    environment = {**os.environ, "CLINICAL_CLIP_FAILPOINT": step}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(IndexNotFound):
        Library.open(folder)
    child.create(folder)
    with Library.open(folder) as library:
        assert library.verify().ok
