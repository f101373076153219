"""Pairs to batches: pixels, augmentation, sentence and tokens, made in worker processes.

All chance of an item comes from (seed, epoch, index), so a batch does not depend on how many workers or
ranks there are, or on whether the run was interrupted before it.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerContext

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from clinical_clip.data.pairs import Pair, PairSet, sample_sentence
from clinical_clip.data.pairs.pixels import load_pair_pixels
from clinical_clip.errors import ImageRejected, TrainingError
from clinical_clip.model.preprocess import ImagePreprocessing
from clinical_clip.model.tokens import TokenBatch, Tokens
from clinical_clip.train.config import DataConfig

__all__ = ["Batch", "Item", "PairDataset", "PairLoader", "item_random", "text_key"]

_SUBSTITUTES = 100


@dataclass(frozen=True, kw_only=True)
class Item:
    """One pair, ready: image uint8 (S, S, 3), the text it is seen with, its number."""

    image_HWC: Tensor
    text: str
    index: int
    rejected: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B pairs: uint8 images, not yet normalised, and tokens.

    ``text_key_B`` is equal where texts are equal; ``index_B`` numbers the pairs that have an image.
    """

    image_BHWC: Tensor
    tokens: TokenBatch
    text_key_B: Tensor
    index_B: Tensor
    rejected: int

    def __len__(self) -> int:
        return len(self.index_B)

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, for copies that do not wait."""
        return replace(
            self,
            image_BHWC=self.image_BHWC.pin_memory(),
            tokens=self.tokens.pin_memory(),
            text_key_B=self.text_key_B.pin_memory(),
            index_B=self.index_B.pin_memory(),
        )

    def to(self, device: torch.device) -> Batch:
        """The same on ``device``."""
        if device.type == "cpu":
            return self
        return replace(
            self,
            image_BHWC=self.image_BHWC.to(device, non_blocking=True),
            tokens=self.tokens.to(device, non_blocking=True),
            text_key_B=self.text_key_B.to(device, non_blocking=True),
            index_B=self.index_B.to(device, non_blocking=True),
        )


def item_random(seed: int, epoch: int, index: int) -> random.Random:
    """All chance of one item in one epoch.

    >>> item_random(42, 0, 7).random() == item_random(42, 0, 7).random()
    True
    """
    text = f"{seed}:{epoch}:{index}".encode()
    return random.Random(  # noqa: S311
        int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "big")
    )


def text_key(text: str) -> int:
    """A number that equal texts share, up to white space; 63 bits."""
    digest = hashlib.blake2b(" ".join(text.split()).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class PairDataset(Dataset[Item]):
    """The pairs of a set that have an image; an item is asked for by (epoch, index).

    An image that cannot be read gives way to the next pair that can be, and is counted.
    """

    def __init__(
        self, pairs: PairSet, *, config: DataConfig, preprocessing: ImagePreprocessing, seed: int
    ) -> None:
        found = [pair for pair in pairs if pair.has_image]
        if not found:
            raise TrainingError(
                "no pair has an image", where=pairs.name, hint="see `clinical-clip data check`"
            )
        self._pairs = [_light(pair) for pair in found]
        self._config, self._preprocessing, self._seed = config, preprocessing, seed
        self._augment = config.build()

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def pairs(self) -> list[Pair]:
        """The pairs, in the order that ``Batch.index_B`` counts."""
        return self._pairs

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        for step in range(_SUBSTITUTES):
            try:
                return self._item(epoch, (index + step) % len(self._pairs), rejected=step)
            except ImageRejected:
                continue
        raise TrainingError(
            f"{_SUBSTITUTES} images in a row cannot be read", hint="see `clinical-clip data check`"
        )

    def _item(self, epoch: int, index: int, *, rejected: int) -> Item:
        pair = self._pairs[index]
        rng = item_random(self._seed, epoch, index)
        pixels_HWC = load_pair_pixels(pair)
        if self._augment is not None:
            pixels_HWC = self._augment(pixels_HWC, self._preprocessing.size, rng)
        sentence = self._config.caption == "sentence"
        return Item(
            image_HWC=torch.from_numpy(self._preprocessing.square(pixels_HWC)),
            text=sample_sentence(pair.caption, rng) if sentence else pair.caption,
            index=index,
            rejected=rejected,
        )


def _light(pair: Pair) -> Pair:
    """What the loader needs of a pair, cheap to send to a worker."""
    return Pair(
        pair_id=pair.pair_id,
        image=pair.image,
        frame=pair.frame,
        caption=pair.caption,
        labels=dict(pair.labels),
    )


class _Collate:
    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def __call__(self, items: list[Item]) -> Batch:
        return Batch(
            image_BHWC=torch.stack([item.image_HWC for item in items]),
            tokens=self._tokens([item.text for item in items]),
            text_key_B=torch.tensor([text_key(item.text) for item in items]),
            index_B=torch.tensor([item.index for item in items]),
            rejected=sum(item.rejected for item in items),
        )


def _start_worker(number: int) -> None:
    """A worker leaves stopping to its parent, and computes on one thread."""
    import cv2

    for name in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _context() -> ForkServerContext:
    """Workers forked from a server that has this module loaded, and no threads or GPU of the run's."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


class PairLoader:
    """Batches of a dataset in a sampler's order, whatever the number of workers."""

    def __init__(
        self,
        dataset: PairDataset,
        batches: Sampler[list[tuple[int, int]]] | Sequence[list[tuple[int, int]]],
        *,
        tokens: Tokens,
        workers: int,
        pin_memory: bool = False,
    ) -> None:
        self._loader: DataLoader[Item] = DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=_Collate(tokens),
            num_workers=workers,
            pin_memory=pin_memory,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # its own: opening the loader must not draw from the run's
            multiprocessing_context=_context() if workers else None,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
        )

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)
