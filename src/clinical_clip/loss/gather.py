"""Features of every rank, with gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

__all__ = [
    "Gather",
    "all_gather_with_grad",
    "average_gradients",
    "distributed",
    "local_rows",
    "no_gather",
]


class Gather(Protocol):
    """(B, ...) of this rank → (N, ...) of all ranks, in the order of the ranks."""

    def __call__(self, rows: Tensor, /) -> Tensor: ...


def distributed() -> bool:
    """Whether more than one rank takes part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def no_gather(rows: Tensor, /) -> Tensor:
    """One rank alone: what it was given."""
    return rows


def all_gather_with_grad(rows: Tensor, /) -> Tensor:
    """(B, ...) of this rank → (N, ...) of all ranks; the gradient goes back to the rank it came from.

    Every rank must hold the same B. Outside a process group it gives back what it was given. Each rank's
    loss sees every rank's features, so a feature's gradient is the *sum* over ranks of what they ask of
    it; with the mean that data-parallel wrappers take over parameters this is the gradient of the mean
    loss over all N pairs.
    """
    if not distributed():
        return rows
    if not rows.requires_grad:
        gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)
    return torch.cat(all_gather(rows.contiguous()))  # type: ignore[no-untyped-call]


def local_rows(count: int, gather: Gather, *, device: torch.device) -> Tensor:
    """Places of this rank's ``count`` rows among the gathered ones: int64 (B,)."""
    first = 0 if gather is no_gather or not distributed() else dist.get_rank() * count
    return torch.arange(first, first + count, device=device)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over ranks, as a data-parallel wrapper does after a backward pass.

    For steps that a wrapper cannot see whole, such as GradCache. Every rank must have gradients for the
    same parameters. Outside a process group nothing happens.
    """
    if not distributed():
        return
    by_kind: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_kind.setdefault((parameter.grad.dtype, parameter.grad.device), []).append(parameter.grad)
    for gradients in by_kind.values():
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
