"""A run that is killed at a named moment: ``python -m tests.train.killed MANIFEST OUT RECIPE MOMENT``.

Moments: ``step-N`` (inside optimizer step N, after the gradients), ``rename-N`` (checkpoint of step N
written, not yet in its place), ``after-N`` (in its place).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from clinical_clip.data.pairs import open_pairs
from clinical_clip.train import checkpoint
from clinical_clip.train.checkpoint import CheckpointStore
from clinical_clip.train.distributed import World
from clinical_clip.train.recipes import recipe
from clinical_clip.train.step import Stepper


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str, number: int) -> None:
    check, replace, prune = Stepper._check, os.replace, CheckpointStore.prune

    def in_step(self: Stepper, loss: float, norm: float, step: int) -> None:
        check(self, loss, norm, step)
        if moment == "step" and step + 1 == number:
            kill()

    def before_rename(source: Path, target: Path) -> None:
        if moment == "rename" and str(target).endswith(f"step-{number:08d}"):
            kill()
        replace(source, target)

    def after_rename(self: CheckpointStore) -> None:
        if moment == "after" and (self.folder / f"step-{number:08d}").exists():
            kill()
        prune(self)

    Stepper._check = in_step
    checkpoint.os.replace = before_rename
    CheckpointStore.prune = after_rename


if __name__ == "__main__":
    manifest, out, name, moment = sys.argv[1:]
    torch.set_num_threads(1)
    kind, _, at = moment.partition("-")
    arm(kind, int(at))
    pairs = open_pairs(Path(manifest))
    recipe(name).build(
        data=pairs.split("train"),
        validation=pairs.split("validation"),
        out=Path(out),
        world=World(rank=0, size=1, device=torch.device("cpu")),
    ).run()
