"""The bulk run: a whole source to vectors, in memory or to a file, resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinical_clip.atomic import replace_file
from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.embed.encoder import Encoder
from clinical_clip.embed.parts import PartStore
from clinical_clip.embed.pipeline import EncodedBatch, Phases, encode_stream
from clinical_clip.embed.progress import Counter, Progress, scan_ahead
from clinical_clip.errors import SourceError
from clinical_clip.types import ImageRecord, Rejection

__all__ = ["Embedded", "EmbeddedFile", "embed_records", "embed_to_file"]

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Embedded:
    """Records with their vectors (float32 (N, D), norm 1) in the source's order."""

    records: list[ImageRecord]
    vectors_ND: NDArray[np.float32]
    rejections: list[Rejection] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedFile:
    """What a run to a file did. ``resumed``: images taken from an earlier, interrupted run."""

    path: Path
    images: int
    resumed: int
    rejections: list[Rejection]
    elapsed_s: float
    encode_s: float


def embed_records(
    items: Iterable[ImageRecord | Rejection],
    encoder: Encoder,
    *,
    progress: OnProgress | None = None,
    workers: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Embedded:
    """Encode records into memory.

    Raises:
        SourceError: not one image could be encoded.
    """
    counter = Counter()
    records: list[ImageRecord] = []
    vectors: list[NDArray[np.float32]] = []
    rejections: list[Rejection] = []
    for batch in encode_stream(scan_ahead(items, counter), encoder, workers=workers, limits=limits):
        records += batch.records
        vectors.append(batch.vectors_ND)
        rejections += batch.rejections
        counter.done, counter.rejected = len(records), len(rejections)
        if progress:
            progress(counter.read())
    _require_some(len(records), rejections, "source")
    return Embedded(records, np.concatenate(vectors), rejections)


def embed_to_file(
    items: Iterable[ImageRecord | Rejection],
    encoder: Encoder,
    out: Path,
    *,
    source: str,
    progress: OnProgress | None = None,
    part_size: int = 512,
    workers: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> EmbeddedFile:
    """Encode records to ``out``, an ``.npz`` with these arrays:

    - ``ids``: (N,) str, paths relative to the source (``path#frame`` where a file gives several);
    - ``vectors``: (N, D) float32, norm 1;
    - ``image_ids``: (N,) str, stable ids (SOP Instance UID or content hash, and frame);
    - ``encoder``, ``encoder_digest``, ``preprocessing_digest``: what made them.

    Finished parts wait in ``<out>.parts`` until the file is whole; after an interruption the same
    call goes on from them.

    Args:
        source: names the source in the plan, so that parts of another source are refused.

    Raises:
        SourceError: not one image could be encoded.
        IndexMismatch: an unfinished run with other settings is in the way.
        StoreError: the output cannot be written.
    """
    plan = {"source": source, "encoder": encoder.digest, "preprocessing": encoder.preprocessing.digest}
    run = _FileRun(PartStore(out.with_name(out.name + ".parts"), plan), part_size)
    phases = Phases()
    todo = run.not_done(scan_ahead(items, run.counter))
    for batch in encode_stream(todo, encoder, workers=workers, limits=limits, phases=phases):
        run.take(batch)
        if progress:
            progress(run.counter.read())
    run.flush()
    keys = [key for key in run.order if key in run.done]
    _require_some(len(keys), run.rejections, source)
    _write(out, keys, np.stack([run.done[key] for key in keys]), encoder)
    run.store.remove()
    return EmbeddedFile(
        path=out,
        images=len(keys),
        resumed=run.resumed,
        rejections=run.rejections,
        elapsed_s=run.counter.read().elapsed_s,
        encode_s=phases.encode_s,
    )


_Key = tuple[str, str]
"""Name and image id: a file that changed under its name is done again."""


class _FileRun:
    """What a run to a file knows: what is done, in which order it belongs, what waits for its part."""

    def __init__(self, store: PartStore, part_size: int) -> None:
        self.store = store
        self.counter = Counter()
        self.done: dict[_Key, NDArray[np.float32]] = {}
        self.order: list[_Key] = []
        self.rejections: list[Rejection] = []
        self._part_size = part_size
        self._records: list[ImageRecord] = []
        self._vectors: list[NDArray[np.float32]] = []
        for part in store.read():
            self.done.update(zip(zip(part.names, part.image_ids, strict=True), part.vectors_ND, strict=True))
        self.resumed = len(self.done)

    def not_done(self, items: Iterable[ImageRecord | Rejection]) -> Iterator[ImageRecord | Rejection]:
        finished = frozenset(self.done)
        for item in items:
            if isinstance(item, ImageRecord):
                self.order.append((item.name, item.image_id))
                if self.order[-1] in finished:
                    self.counter.skipped += 1
                    continue
            yield item

    def take(self, batch: EncodedBatch) -> None:
        self._records += batch.records
        self._vectors += list(batch.vectors_ND)
        self.rejections += batch.rejections
        self.counter.done += len(batch.records)
        self.counter.rejected = len(self.rejections)
        if len(self._records) >= self._part_size:
            self.flush()

    def flush(self) -> None:
        if self._records:
            self.store.write(self._records, np.stack(self._vectors))
            keys = [(record.name, record.image_id) for record in self._records]
            self.done.update(zip(keys, self._vectors, strict=True))
            self._records, self._vectors = [], []


def _write(out: Path, keys: list[_Key], vectors_ND: NDArray[np.float32], encoder: Encoder) -> None:
    with replace_file(out) as stream:
        np.savez(
            stream,
            ids=np.array([name for name, _ in keys], dtype=np.str_),
            vectors=vectors_ND,
            image_ids=np.array([image_id for _, image_id in keys], dtype=np.str_),
            encoder=np.array(encoder.name),
            encoder_digest=np.array(encoder.digest),
            preprocessing_digest=np.array(encoder.preprocessing.digest),
        )


def _require_some(count: int, rejections: list[Rejection], where: str) -> None:
    if count:
        return
    first = f"; the first: {rejections[0].name}: {rejections[0].what}" if rejections else ""
    raise SourceError(
        f"no image could be encoded, {len(rejections)} rejected{first}",
        where=where,
        hint="check that the source holds PNG, JPEG, TIFF, WebP, DICOM or NIfTI images",
    )
