"""Validation: the loss over whole batches in a fixed order, and retrieval among the validation pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from clinical_clip.errors import TrainingError
from clinical_clip.model.tokens import Tokens
from clinical_clip.train.cache import TextCache
from clinical_clip.train.config import RunConfig
from clinical_clip.train.data import Batch, PairDataset, PairLoader
from clinical_clip.train.distributed import World
from clinical_clip.train.forward import encode
from clinical_clip.train.objective import Objective
from clinical_clip.train.recall import precision_at, recall_at

__all__ = ["LABELS", "Validation", "validation_batches"]

LABELS = ("modality", "organ_group", "organ", "shape")
"""Labels by which images are searched by images, where the pairs have them."""

_KS = (1, 5, 10)
_PRECISION_K = 5
_EPOCH = -1  # the sentence and nothing else of an item depends on it: the same in every validation


def validation_batches(dataset: PairDataset, batch_size: int) -> list[list[tuple[int, int]]]:
    """All whole batches, in the order of the pair ids' digests: fixed, with neighbours apart.

    Raises:
        TrainingError: fewer than two pairs.
    """
    if len(dataset) < 2:
        raise TrainingError(f"{len(dataset)} validation pairs", hint="give a validation split of two or more")
    size = min(batch_size, len(dataset))

    def key(number: int) -> bytes:
        return hashlib.sha256(dataset.pairs[number].pair_id.encode("utf-8", "surrogatepass")).digest()

    order = sorted(range(len(dataset)), key=key)
    return [
        [(_EPOCH, number) for number in order[start : start + size]]
        for start in range(0, len(order) - size + 1, size)
    ]


class Validation:
    """The validation pairs of a run, and what is measured on them."""

    def __init__(self, dataset: PairDataset, config: RunConfig, world: World, tokens: Tokens) -> None:
        batches = validation_batches(dataset, config.data.batch_size)
        self._rounds = -(-len(batches) // world.size)
        # Every rank makes the same number of passes, as sharded weights demand; surplus ones count nothing.
        mine = [batches[(r * world.size + world.rank) % len(batches)] for r in range(self._rounds)]
        self._counts = [r * world.size + world.rank < len(batches) for r in range(self._rounds)]
        self._loader = PairLoader(
            dataset,
            mine,
            tokens=tokens,
            workers=min(1, config.data.workers),
            pin_memory=world.device.type == "cuda",
        )
        self._dataset, self._config, self._world = dataset, config, world
        self.cache: TextCache | None = None
        self.pairs = sum(len(batch) for batch in batches)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what ``measure`` gives."""
        labels = [name for name in LABELS if any(pair.labels.get(name) for pair in self._dataset.pairs)]
        directions = [f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in _KS]
        return ("loss", *directions, *(f"{name}_precision@{_PRECISION_K}" for name in labels))

    @torch.no_grad()
    def measure(self, towers: nn.Module, objective: Objective) -> dict[str, float]:
        """Loss (mean over batches) and retrieval shares; the model is left in the mode it was in."""
        was_training = towers.training
        towers.eval()
        losses, kept = torch.zeros((), dtype=torch.float64), []
        for counts, batch in zip(self._counts, self._loader, strict=True):
            loss, features = self._batch(batch.to(self._world.device), towers, objective)
            losses += loss * counts
            kept.append([feature.float().cpu() for feature in (*features, batch.index_B)])
        towers.train(was_training)
        total = self._world.sum(losses)
        image_ND, text_ND, unit_NR, index_N = (self._all(column) for column in zip(*kept, strict=True))
        batches = self.pairs // (len(index_N) // (self._rounds * self._world.size))
        rows = slice(0, self.pairs)
        numbers = [int(number) for number in index_N[rows]]
        return {
            "loss": float(total) / batches,
            **self._retrieval(image_ND[rows], text_ND[rows], unit_NR[rows], numbers),
        }

    def _batch(
        self, batch: Batch, towers: nn.Module, objective: Objective
    ) -> tuple[float, tuple[Tensor, ...]]:
        cached = self.cache.rows(batch) if self.cache else None
        features = encode(
            towers, batch.image_BHWC, batch.tokens, cached, precision=self._config.precision, retrieval=True
        )
        loss = objective.of_batch(features[0], features[1], batch.text_key_B)
        image_BD, text_BD = (functional.normalize(feature, dim=1) for feature in features[:2])
        return float(loss), (image_BD, text_BD, features[2])

    def _all(self, column: Sequence[Tensor]) -> Tensor:
        """Rows of all ranks, in the order of the batches."""
        ranks = self._world.gather(torch.stack(list(column)))
        return torch.stack(ranks, dim=1).flatten(0, 2)

    def _retrieval(
        self, image_ND: Tensor, text_ND: Tensor, unit_NR: Tensor, numbers: Sequence[int]
    ) -> dict[str, float]:
        pairs = [self._dataset.pairs[number] for number in numbers]
        captions = [pair.caption for pair in pairs]
        found: dict[str, float] = {}
        for k in _KS:
            found[f"image_to_text_recall@{k}"] = recall_at(image_ND, text_ND, captions, k)
            found[f"text_to_image_recall@{k}"] = recall_at(text_ND, image_ND, captions, k)
        for name in LABELS:
            value = precision_at(unit_NR, [pair.labels.get(name, "") for pair in pairs], _PRECISION_K)
            if value is not None:
                found[f"{name}_precision@{_PRECISION_K}"] = value
        return found
