"""What a checkpoint holds of a running trainer, and putting it back."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from clinical_clip.train.distributed import World
from clinical_clip.train.step import Stepper

__all__ = ["collect_state", "collect_weights", "restore_state", "seed_everything"]

_RANK_STRIDE = 1_000_003


def seed_everything(seed: int, world: World) -> None:
    """Seed torch on every device, each rank its own way (dropout must differ between ranks)."""
    torch.manual_seed(seed + _RANK_STRIDE * world.rank)


def collect_weights(stepper: Stepper, model: nn.Module, *, sharded: bool) -> dict[str, Tensor]:
    """All weights and buffers, whole, on the CPU. All ranks call it."""
    if not sharded:
        return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found = cast(dict[str, Tensor], get_model_state_dict(stepper.plain, options=options))
    return {name.removeprefix("model."): tensor for name, tensor in found.items()}


def collect_state(stepper: Stepper, world: World, *, sharded: bool) -> dict[str, Any]:
    """Optimizer and random states, whole, on the CPU: tensors and plain values. All ranks call it."""
    if sharded:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        optimizer: dict[str, Any] = dict(
            get_optimizer_state_dict(stepper.plain, stepper.optimizer, options=options)
        )
    else:
        optimizer = stepper.optimizer.state_dict()
    random = {"cpu": world.gather(torch.get_rng_state())}
    if world.device.type == "cuda":
        random["cuda"] = world.gather(torch.cuda.get_rng_state(world.device))
    return {"optimizer": optimizer, "random": random}


def restore_state(
    stepper: Stepper,
    model: nn.Module,
    weights: dict[str, Tensor],
    state: dict[str, Any],
    world: World,
    *,
    sharded: bool,
) -> None:
    """Put weights, optimizer and random states back.

    Random states are those of the same rank; where the number of ranks has changed, ranks without one
    keep their fresh seed.
    """
    if sharded:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        whole: dict[str, Any] = {f"model.{name}": tensor for name, tensor in weights.items()}
        set_model_state_dict(stepper.plain, whole, options=options)
        set_optimizer_state_dict(stepper.plain, stepper.optimizer, state["optimizer"], options=options)
    else:
        model.load_state_dict(weights)
        _load_optimizer(stepper.optimizer, state["optimizer"])
    if world.rank < len(state["random"]["cpu"]):
        torch.set_rng_state(state["random"]["cpu"][world.rank])
        if world.device.type == "cuda" and "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"][world.rank], world.device)


def _load_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    rates = [(group["lr"], group["base_lr"]) for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, (lr, base_lr) in zip(optimizer.param_groups, rates, strict=True):
        group["lr"], group["base_lr"] = lr, base_lr
