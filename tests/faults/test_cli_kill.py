"""kill -9 of ``clinical-clip index add``, from files to library, at random moments."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinical_clip.index import Library

IMAGES = 320


def pictures(folder: Path) -> Path:
    """Small pictures, no two alike."""
    folder.mkdir()
    dice = np.random.default_rng(5)
    for number in range(IMAGES):
        pixels = dice.integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / f"{number:04d}.png")
    return folder


def add(library: Path, source: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "clinical_clip", "index", "add", str(library), str(source)]
    return subprocess.Popen([*command, "--ack-log", str(log), "--workers", "1"], stderr=subprocess.DEVNULL)


def acknowledged(log: Path) -> list[str]:
    """Whole lines of the log."""
    return log.read_text(encoding="utf-8").split("\n")[:-1] if log.exists() else []


def kill_at_random(folder: Path, times: int, seed: int) -> int:
    """Kill ``index add`` and check what it left; a library that is complete makes way for a new one."""
    dice = random.Random(seed)
    source = pictures(folder / "source")
    library = log = folder / "none"
    killed = round_number = 0
    while killed < times:
        if not library.exists() or len(acknowledged(log)) >= IMAGES:
            round_number += 1
            library, log = folder / f"library-{round_number}", folder / f"log-{round_number}"
        process = add(library, source, log)
        begun = time.monotonic()
        while not log.exists() and process.poll() is None and time.monotonic() - begun < 60:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 2.5))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        check(library, log)
    return round_number


def check(library: Path, log: Path) -> None:
    said = acknowledged(log)
    if not library.exists():
        assert said == []
        return
    with Library.open(library, writable=True) as opened:
        assert opened.notices == []
        report = opened.verify(said)
        assert report.ok, report.problems
        paths = [opened.get(image_id).relative_path for image_id in opened.ids()]
        assert len(paths) == len(set(paths)) <= IMAGES


def finish(folder: Path) -> None:
    """Whatever was killed, one more run completes it."""
    library, log = folder / "library-1", folder / "log-1"
    assert add(library, folder / "source", log).wait() == 0
    with Library.open(library) as opened:
        assert len(opened) == IMAGES
        assert opened.verify(acknowledged(log)).ok


def test_index_add_killed_twice(tmp_path: Path) -> None:
    kill_at_random(tmp_path, 2, seed=3)
    finish(tmp_path)


@pytest.mark.full
def test_index_add_killed_fifty_times(tmp_path: Path) -> None:
    kill_at_random(tmp_path, 50, seed=4)
    finish(tmp_path)
