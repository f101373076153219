"""Grouping results by study: the best image of each stands for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["first_of_each", "group_sizes"]


def first_of_each(groups_K: NDArray[np.int32], k: int) -> NDArray[np.int64]:
    """Positions of the first ``k`` members that open a group; negative groups are groups of one.

    >>> first_of_each(np.array([3, 3, 1, -1, -1, 1, 0], dtype=np.int32), 4).tolist()
    [0, 2, 3, 4]
    """
    _, firsts = np.unique(groups_K, return_index=True)
    opens = np.zeros(len(groups_K), dtype=np.bool_)
    opens[firsts] = True
    opens |= groups_K < 0
    return np.flatnonzero(opens)[:k]


def group_sizes(
    groups_N: NDArray[np.int32], chosen_K: NDArray[np.int32], eligible_N: NDArray[np.bool_]
) -> list[int]:
    """How many eligible images each chosen group has; a negative group has one.

    >>> eligible = np.array([True, True, True, False])
    >>> group_sizes(np.array([0, 0, 1, 1], dtype=np.int32), np.array([0, 1, -1], dtype=np.int32), eligible)
    [2, 1, 1]
    """
    members = groups_N[eligible_N]
    counts = np.bincount(members[members >= 0], minlength=int(chosen_K.max(initial=0)) + 1)
    return [int(counts[group]) if group >= 0 else 1 for group in chosen_K.tolist()]
