"""Run a function in two processes of a gloo group and bring back what each returns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

PROGRAM = """
import sys, torch, torch.distributed as dist
from importlib import import_module
torch.set_num_threads(1)
rank, folder, module, name = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
torch.save(getattr(import_module(module), name)(rank), f"{folder}/rank{rank}.pt")
dist.destroy_process_group()
"""


def on_two_ranks(folder: Path, function: Any) -> list[dict[str, torch.Tensor]]:
    """``function(rank)`` on two ranks; it must be at the top level of a module of the tests."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parents[2]
    arguments = [str(folder), function.__module__, function.__name__]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), *arguments],
            cwd=root,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=180)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
