"""Records → pixels (killable child processes) → batches → vectors, streaming and in order.

Decoding runs ahead in the children while the encoder works, so that the encoder, the dear part,
seldom waits. A file that cannot be read becomes a ``Rejection`` of its batch; the run goes on.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from clinical_clip.data.jail import Jail
from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.embed.encoder import Encoder
from clinical_clip.embed.prepare import prepare
from clinical_clip.errors import ImageRejected
from clinical_clip.types import ImageRecord, Rejection

__all__ = ["EncodedBatch", "Phases", "encode_stream"]

_BATCHES_IN_FLIGHT = 2


@dataclass(slots=True)
class Phases:
    """Where a run's time went: ``encode_s`` is the wall time in which the encoder worked."""

    encode_s: float = 0.0


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """Some records with their vectors (float32 (N, D), norm 1), and what was rejected beside them."""

    records: list[ImageRecord]
    vectors_ND: NDArray[np.float32]
    rejections: list[Rejection] = field(default_factory=list)


def encode_stream(
    items: Iterable[ImageRecord | Rejection],
    encoder: Encoder,
    *,
    batch_size: int = 64,
    workers: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    phases: Phases | None = None,
) -> Iterator[EncodedBatch]:
    """Encode a source's records, in their order, batch by batch.

    Args:
        items: records and rejections, as a ``Source`` yields them; read from another thread.
        encoder: makes the vectors.
        batch_size: records a batch at most.
        workers: decoder processes; by default one a CPU.
        limits: for every file.
        phases: filled in as the run goes, if given.
    """
    phases = phases if phases is not None else Phases()
    refused: deque[Rejection] = deque()
    work = partial(prepare, preprocessing=encoder.preprocessing, limits=limits)
    with (
        Jail(work, workers or os.cpu_count() or 1, limits, lookahead=2 * batch_size) as jail,
        ThreadPoolExecutor(1, thread_name_prefix="encoder") as executor,
    ):
        under_way: deque[Future[EncodedBatch]] = deque()
        decoded = jail.imap(_records_only(items, refused))
        for batch in _gather(decoded, refused, batch_size):
            under_way.append(executor.submit(_encode, encoder, batch, phases))
            while len(under_way) > _BATCHES_IN_FLIGHT or (under_way and under_way[0].done()):
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


_Decoded = tuple[list[ImageRecord], list[NDArray[np.uint8]], list[Rejection]]


def _records_only(
    items: Iterable[ImageRecord | Rejection], refused: deque[Rejection]
) -> Iterator[ImageRecord]:
    for item in items:
        if isinstance(item, Rejection):
            refused.append(item)
        else:
            yield item


def _gather(
    decoded: Iterator[tuple[ImageRecord, NDArray[np.uint8] | ImageRejected]],
    refused: deque[Rejection],
    batch_size: int,
) -> Iterator[_Decoded]:
    records: list[ImageRecord] = []
    images: list[NDArray[np.uint8]] = []
    rejections: list[Rejection] = []
    for record, result in decoded:
        if isinstance(result, ImageRejected):
            rejections.append(Rejection.of(record.name, result))
        else:
            records.append(record)
            images.append(result)
        if len(records) + len(rejections) >= batch_size:
            yield records, images, rejections + _drain(refused)
            records, images, rejections = [], [], []
    rejections += _drain(refused)
    if records or rejections:
        yield records, images, rejections


def _drain(refused: deque[Rejection]) -> list[Rejection]:
    taken = []
    while refused:
        taken.append(refused.popleft())
    return taken


def _encode(encoder: Encoder, batch: _Decoded, phases: Phases) -> EncodedBatch:
    records, images, rejections = batch
    started = perf_counter()
    if images:
        vectors_ND = encoder.encode_images(np.stack(images))
    else:
        vectors_ND = np.empty((0, encoder.width), np.float32)
    phases.encode_s += perf_counter() - started
    return EncodedBatch(records, vectors_ND, rejections)
