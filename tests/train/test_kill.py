"""kill -9 at named moments; resumed, the losses and weights are those of a run that was left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clinical_clip.data.pairs import open_pairs
from clinical_clip.train.recipes import recipe
from tests.train.conftest import Runs

ROOT = Path(__file__).resolve().parents[2]


def _validation(folder: Path) -> str:
    return (folder / "validation.csv").read_text()


QUICK = [("smoke-clip-rn", "step-6"), ("smoke-clinical-clip-vit", "rename-4")]
FULL = [
    (name, moment)
    for name in ("smoke-clip-rn", "smoke-clinical-clip-vit", "smoke-convirt", "smoke-siglip")
    for moment in ("step-1", "step-2", "step-7", "rename-2", "rename-8", "after-2", "after-4", "after-8")
]


def _killed_and_resumed(name: str, moment: str, manifest: Path, runs: Runs) -> None:
    runs.made = open_pairs(manifest)
    whole = runs.trainer(recipe(name), "whole")
    whole.run()
    out = runs.folder / "killed"
    command = [sys.executable, "-m", "tests.train.killed", str(manifest), str(out), name, moment]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    resumed = runs.trainer(recipe(name), "killed")
    result = resumed.run()
    assert (result.status, result.steps) == ("done", 8)
    assert runs.read("killed") == runs.read("whole")
    assert _validation(runs.folder / "killed") == _validation(runs.folder / "whole")
    for (key, tensor), other in zip(
        resumed.model.state_dict().items(), whole.model.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, other), key
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == sorted(
        path.name for path in (runs.folder / "whole" / "checkpoints").iterdir()
    )


@pytest.mark.parametrize(("name", "moment"), QUICK)
def test_kill_and_resume(name: str, moment: str, manifest: Path, runs: Runs) -> None:
    _killed_and_resumed(name, moment, manifest, runs)


@pytest.mark.full
@pytest.mark.parametrize(("name", "moment"), FULL)
def test_kill_and_resume_everywhere(name: str, moment: str, manifest: Path, runs: Runs) -> None:
    _killed_and_resumed(name, moment, manifest, runs)
