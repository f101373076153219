"""Adam over named groups of parameters, and its learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from clinical_clip.errors import OptionError
from clinical_clip.model.dual import DualEncoder
from clinical_clip.train.config import OptimConfig

__all__ = ["build_optimizer", "learning_rate_factor", "set_learning_rate"]


def build_optimizer(config: OptimConfig, model: DualEncoder) -> Optimizer:
    """The optimizer over the parameters of ``model`` that learn, in the model's groups.

    Raises:
        OptionError: ``lr_scales`` names no group, or nothing learns.
    """
    groups = model.parameter_groups(
        lr=config.lr,
        weight_decay=config.weight_decay,
        lrs={name: config.lr * scale for name, scale in config.lr_scales},
    )
    if not groups:
        raise OptionError("no parameter learns", where="model", hint="freeze less")
    for group in groups:
        group["base_lr"] = group["lr"]
    kind = Adam if config.kind == "adam" else AdamW
    return kind(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def learning_rate_factor(config: OptimConfig, step: int, total_steps: int) -> float:
    """What multiplies the learning rate in optimizer step ``step`` (from 0).

    >>> cosine = OptimConfig(schedule="cosine", warmup_steps=2)
    >>> [round(learning_rate_factor(cosine, step, 6), 2) for step in range(7)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    done = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    share = config.final_lr_share
    return share + (1 - share) * 0.5 * (1 + math.cos(math.pi * done))


def set_learning_rate(optimizer: Optimizer, factor: float) -> float:
    """Set every group's rate to its own times ``factor``; returns the first group's."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return float(optimizer.param_groups[0]["lr"])


def gradient_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """Euclidean norm over all gradients, a scalar; not finite where any gradient is not."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
