"""Finding a loss or gradient that is NaN or infinite, before it reaches the weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["is_finite", "non_finite"]


def is_finite(value: Tensor) -> bool:
    """Whether all elements are finite numbers.

    >>> is_finite(torch.tensor([1.0, float("nan")]))
    False
    """
    return bool(torch.isfinite(value).all())


def non_finite(named: Iterable[tuple[str, Tensor | None]]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity; None is passed over.

    >>> non_finite([("a", torch.ones(2)), ("b", torch.tensor(float("inf"))), ("c", None)])
    ['b']
    """
    return [name for name, value in named if value is not None and not is_finite(value)]
