"""What each of two processes does under torchrun: ``ranks.py MANIFEST OUT``; the leader's files are read."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from clinical_clip.data.pairs import open_pairs
from clinical_clip.train.config import RunConfig, with_changes
from clinical_clip.train.distributed import open_world
from clinical_clip.train.loop import train
from clinical_clip.train.recipes import recipe


def configs() -> dict[str, RunConfig]:
    """Runs without dropout, which draws differently on every rank."""
    rn, vit = recipe("smoke-clip-rn"), recipe("smoke-clip-vit")
    sync = replace(rn, model=replace(rn.model, image=replace(rn.model.image, batchnorm="sync")))
    return {
        "batchnorm-frozen": rn,
        "batchnorm-sync": sync,
        "vit": vit,
        "accumulate": with_changes(vit, accumulate=2),
        "gradcache": with_changes(vit, gradcache_chunk=2),
        "fsdp2": with_changes(vit, parallel="fsdp2"),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    pairs = open_pairs(Path(sys.argv[1]))
    with open_world("cpu"):  # one group for all runs
        for name, config in configs().items():
            out = Path(sys.argv[2]) / name
            parts = {"data": pairs.split("train"), "validation": pairs.split("validation")}
            if "fsdp2" in name:  # in two goes, to resume from sharded state
                train(with_changes(config, max_steps=3), out=out, device="cpu", **parts)
            train(config, out=out, device="cpu", **parts)
