from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest

from clinical_clip.errors import OptionError, TrainingError
from clinical_clip.train.sampler import BatchSampler, Position


def test_an_epoch_has_every_pair_once_but_the_dropped_rest() -> None:
    sampler = BatchSampler(length=23, batch_size=5, seed=1)
    seen = [index for batch in sampler for _, index in batch]
    assert len(seen) == 20
    assert max(Counter(seen).values()) == 1


def test_orders_differ_by_epoch_and_seed_and_nothing_else() -> None:
    def order(seed: int, epoch: int) -> list[list[tuple[int, int]]]:
        sampler = BatchSampler(length=64, batch_size=8, seed=seed)
        sampler.start_at(Position(epoch=epoch))
        return list(sampler)

    assert order(1, 0) == order(1, 0)
    assert [i for b in order(1, 0) for _, i in b] != [i for b in order(1, 1) for _, i in b]
    assert order(1, 0) != order(2, 0)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_the_global_batches(world: int) -> None:
    whole = list(BatchSampler(length=50, batch_size=8, seed=3))
    ranks = [
        list(BatchSampler(length=50, batch_size=8, seed=3, rank=rank, world=world)) for rank in range(world)
    ]
    joined = [list(chain(*(rank[number] for rank in ranks))) for number in range(len(whole))]
    assert joined == whole


def test_resumed_inside_an_epoch_gives_what_is_left() -> None:
    sampler = BatchSampler(length=40, batch_size=4, seed=3)
    whole = list(sampler)
    sampler.start_at(Position(epoch=0, batch=7))
    assert list(sampler) == whole[7:]
    assert len(sampler) == 3


def test_impossible_batches() -> None:
    with pytest.raises(TrainingError, match="fewer than one batch"):
        BatchSampler(length=3, batch_size=4, seed=0)
    with pytest.raises(OptionError, match="shared by 3"):
        BatchSampler(length=30, batch_size=4, seed=0, world=3)
