"""Retrieval on the validation pairs: pure functions over features, in blocks, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["precision_at", "recall_at"]

_BLOCK = 1024


def recall_at(query_ND: Tensor, gallery_ND: Tensor, answer_N: Sequence[str], k: int) -> float:
    """Share of queries with an item of their own answer among the ``k`` of the greatest dot product.

    Query i's own item is gallery item i; items whose ``answer_N`` is equal count as well, so that
    pairs with the same caption are no errors of each other.

    >>> eye = torch.eye(3)
    >>> recall_at(eye, eye, ["a", "b", "c"], 1), recall_at(eye, eye.roll(1, 0), ["a", "b", "c"], 1)
    (1.0, 0.0)
    >>> recall_at(eye, eye.roll(1, 0), ["a", "a", "a"], 1)
    1.0
    """
    answer = _codes(answer_N)
    hits = 0
    for start in range(0, len(query_ND), _BLOCK):
        stop = min(start + _BLOCK, len(query_ND))
        top = (query_ND[start:stop] @ gallery_ND.T).topk(min(k, len(gallery_ND)), dim=1).indices
        hits += int((answer[top] == answer[start:stop, None]).any(1).sum())
    return hits / len(query_ND)


def precision_at(image_ND: Tensor, label_N: Sequence[str], k: int) -> float | None:
    """Mean share of the ``k`` nearest other images that have the query's label; unlabelled ones are left out.

    None where fewer than two labels, or not more than ``k`` labelled images.

    >>> precision_at(torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]]), ["a", "a", "b", "b"], 1)
    1.0
    """
    labelled = [number for number, label in enumerate(label_N) if label]
    if len(labelled) <= k or len({label_N[number] for number in labelled}) < 2:
        return None
    vector = image_ND[labelled]
    label = _codes([label_N[number] for number in labelled])
    total = 0.0
    for start in range(0, len(vector), _BLOCK):
        stop = min(start + _BLOCK, len(vector))
        scores = vector[start:stop] @ vector.T
        scores[torch.arange(stop - start), torch.arange(start, stop)] = -torch.inf
        top = scores.topk(k, dim=1).indices
        total += float((label[top] == label[start:stop, None]).double().mean(1).sum())
    return total / len(vector)


def _codes(words: Sequence[str]) -> Tensor:
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(word, len(numbers)) for word in words])
