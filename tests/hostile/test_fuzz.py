"""The fuzzer itself, for a few minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def fuzz(folder: Path, minutes: float) -> str:
    command = [
        sys.executable,
        "-m",
        "tests.hostile.fuzz",
        "--minutes",
        str(minutes),
        "--findings",
        str(folder),
    ]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True, env=os.environ)
    return done.stdout


def test_a_few_seconds_find_nothing(tmp_path: Path) -> None:
    output = fuzz(tmp_path, 0.05)
    assert "done after" in output
    assert "FINDING" not in output


@pytest.mark.full
def test_ten_minutes_find_nothing(tmp_path: Path) -> None:
    assert "FINDING" not in fuzz(tmp_path, 10)
