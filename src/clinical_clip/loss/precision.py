"""Losses are computed in float32 even where the towers run in half precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor

__all__ = ["at_least_float32", "without_autocast"]

P = ParamSpec("P")


def at_least_float32(value: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def without_autocast(
    function: Callable[Concatenate[Tensor, P], Tensor],
) -> Callable[Concatenate[Tensor, P], Tensor]:
    """The same function, its matrix products kept out of autocast."""

    @wraps(function)
    def outside(first: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *args, **kwargs)

    return outside
