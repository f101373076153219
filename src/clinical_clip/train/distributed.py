"""The processes of a run, as ``torchrun`` starts them; one process without it.

Every rank computes the loss of the whole global batch over gathered features, so gradients averaged over
ranks are those of one process with that batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from clinical_clip.errors import OptionError

__all__ = ["World", "open_world", "use_threads"]


def use_threads(count: int | None) -> None:
    """How many CPU threads torch may use; None leaves it to torch."""
    if count is not None:
        torch.set_num_threads(count)


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among all of the run."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """This process writes the files."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over ranks of a CPU tensor, on every rank."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether any rank says so."""
        return bool(self.sum(torch.tensor(float(flag))).item() > 0)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.sum(torch.zeros(()))

    def gather(self, values: Tensor) -> list[Tensor]:
        """CPU tensors of one shape, one a rank, on every rank."""
        if self.size == 1:
            return [values]
        gathered = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(gathered, values.contiguous())
        return gathered


@contextmanager
def open_world(device: str = "auto") -> Iterator[World]:
    """The world of this process; joins the others where ``torchrun`` started it.

    Args:
        device: ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.

    Raises:
        OptionError: no such device here.
    """
    chosen = _device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(rank=0, size=1, device=chosen)
        return
    joined = not dist.is_initialized()
    if joined:
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend)
    try:
        yield World(rank=dist.get_rank(), size=size, device=chosen)
    finally:
        if joined:
            dist.destroy_process_group()


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise OptionError(f"no device {name!r}", where="--device", hint="use auto, cpu or cuda")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise OptionError("no CUDA device is usable", where="--device", hint="use --device cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device
