"""A source into a library: encode what is new, store batch by batch, acknowledge after each commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.embed.encoder import Encoder
from clinical_clip.embed.pipeline import encode_stream
from clinical_clip.embed.progress import Counter, Progress, scan_ahead
from clinical_clip.index.changes import AddResult
from clinical_clip.index.library import Library
from clinical_clip.types import ImageRecord, Rejection

__all__ = ["Ingested", "ingest"]

T = TypeVar("T")
_LOOKUP = 256
"""Records whose ids are looked up together."""


@dataclass(slots=True)
class Ingested:
    """What became of a source: every record seen is added, updated, unchanged or rejected."""

    result: AddResult = field(default_factory=AddResult)
    rejections: list[Rejection] = field(default_factory=list)
    encoded: int = 0


def ingest(
    library: Library,
    items: Iterable[ImageRecord | Rejection],
    encoder: Encoder,
    *,
    acknowledge: Callable[[list[str]], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Ingested:
    """Add a source to a library. Images that are there already are not encoded again.

    Args:
        library: open for writing, made by this encoder.
        acknowledge: called with image ids once they are committed and synced to disk.
        progress: called after every batch.

    Raises:
        IndexMismatch: the library was made by another encoder or preprocessing.
        StoreError: the disk refuses; what was acknowledged is kept.
    """
    library.check_encoder(
        encoder_name=encoder.name,
        encoder_digest=encoder.digest,
        preprocessing_digest=encoder.preprocessing.digest,
    )
    run = _Run(library, Counter(), acknowledge)
    todo = run.not_stored(scan_ahead(items, run.counter))
    for batch in encode_stream(todo, encoder, batch_size=batch_size, workers=workers, limits=limits):
        run.store_known()
        run.store(batch.records, batch.vectors_ND)
        run.done.encoded += len(batch.records)
        run.done.rejections += batch.rejections
        run.counter.done, run.counter.rejected = run.done.encoded, len(run.done.rejections)
        if progress:
            progress(run.counter.read())
    run.store_known()
    library.note_rejections(run.done.rejections)
    return run.done


class _Run:
    def __init__(
        self, library: Library, counter: Counter, acknowledge: Callable[[list[str]], None] | None
    ) -> None:
        self.library = library
        self.counter = counter
        self.done = Ingested()
        self._acknowledge = acknowledge
        self._known: list[list[ImageRecord]] = []

    def not_stored(self, items: Iterable[ImageRecord | Rejection]) -> Iterator[ImageRecord | Rejection]:
        """Pass on what needs encoding; keep the rest for ``store_known``. Runs in the jail's thread."""
        for chunk in _chunks(items, _LOOKUP):
            records = [item for item in chunk if isinstance(item, ImageRecord)]
            known = self.library.known([record.image_id for record in records])
            if known:
                self._known.append([record for record in records if record.image_id in known])
                self.counter.skipped += len(self._known[-1])
            yield from (item for item in chunk if isinstance(item, Rejection) or item.image_id not in known)

    def store_known(self) -> None:
        """Bring fields and paths of images that are stored already up to date, with their old vectors."""
        while self._known:
            records = self._known.pop(0)
            vectors_ND = self.library.vectors_of([record.image_id for record in records])
            self.store(records, vectors_ND.astype(np.float32))

    def store(self, records: list[ImageRecord], vectors_ND: NDArray[np.float32]) -> None:
        if not records:
            return
        self.done.result += self.library.add(list(zip(records, vectors_ND, strict=True)))
        if self._acknowledge:
            self._acknowledge([record.image_id for record in records])


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
