"""Which pairs make which batch: a pure function of seed, epoch and batch number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from clinical_clip.errors import OptionError, TrainingError

__all__ = ["BatchSampler", "Position"]


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a run is: batches ``0 .. batch - 1`` of ``epoch`` are done (both count from 0)."""

    epoch: int = 0
    batch: int = 0


class BatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of ``(epoch, index)``, in an order that depends on nothing but the seed.

    The global batch b of an epoch is the b-th slice of the epoch's permutation; rank r of W takes the
    r-th of its W parts. So any number of processes sees the same global batches, and a resumed run the
    batches that are left. The last, incomplete batch of an epoch is dropped.

    Args:
        length: number of pairs.
        batch_size: of all ranks together; a multiple of ``world``.

    Raises:
        TrainingError: fewer pairs than one batch.
        OptionError: the batch cannot be divided evenly among the ranks.

    >>> sampler = BatchSampler(length=10, batch_size=4, seed=0)
    >>> [len(batch) for batch in sampler]
    [4, 4]
    >>> sampler.start_at(Position(epoch=0, batch=1))
    >>> len(list(sampler))
    1
    """

    def __init__(self, *, length: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if batch_size % world:
            raise OptionError(
                f"a batch of {batch_size} cannot be shared by {world} processes",
                where="data.batch_size",
                hint=f"use a multiple of {world}",
            )
        if length < batch_size:
            raise TrainingError(
                f"{length} pairs are fewer than one batch of {batch_size}",
                where="training pairs",
                hint="give more pairs, or take a recipe with a smaller batch",
            )
        self._length, self._batch_size, self._seed = length, batch_size, seed
        self._share = batch_size // world
        self._rank = rank
        self._position = Position()

    @property
    def batches(self) -> int:
        """Global batches of a whole epoch."""
        return self._length // self._batch_size

    def start_at(self, position: Position) -> None:
        """Let the next iteration begin at ``position``."""
        self._position = position

    def __len__(self) -> int:
        return self.batches - self._position.batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, first = self._position.epoch, self._position.batch
        order = np.random.Generator(np.random.PCG64([self._seed, epoch])).permutation(self._length)
        for number in range(first, self.batches):
            start = number * self._batch_size + self._rank * self._share
            yield [(epoch, int(index)) for index in order[start : start + self._share]]
