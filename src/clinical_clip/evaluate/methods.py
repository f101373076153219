"""What ranks the gallery: an encoder, stored vectors, and the floors to hold against them.

Shape suffixes: N images, D width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from clinical_clip.errors import ImageRejected, OptionError
from clinical_clip.evaluate.floors import PIXEL_SIDE, pixel_vector
from clinical_clip.evaluate.names import PIXELS, RANDOM
from clinical_clip.evaluate.results import MethodInfo
from clinical_clip.evaluate.vectors import align, load_vectors, normalise
from clinical_clip.types import ImageRecord, Rejection

__all__ = [
    "Baselines",
    "Measured",
    "Progress",
    "encode",
    "parse_baselines",
    "pixel_floor",
    "random_floor",
    "stored",
]

Item = TypeVar("Item")
Progress = Callable[[str, int, int], None]
"""Called with the phase, how many images are done, and how many there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Baselines:
    """What the encoder is compared with: the floors, and other encoders' stored vectors."""

    random: bool = True
    pixels: bool = True
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measured:
    """L2-normalised vectors by the name of their image, and the images that gave none.

    Attributes:
        info: what made them.
        rows: name of each row of ``vectors_ND``.
        vectors_ND: float32 (N, D); None stands for a random ranking of whatever there is.
        rejections: images without a vector, and why.
    """

    info: MethodInfo
    rows: tuple[str, ...] = ()
    vectors_ND: NDArray[np.float32] | None = None
    rejections: tuple[Rejection, ...] = field(default=())

    def of(self, names: Sequence[str]) -> NDArray[np.float32] | None:
        """The vectors of ``names``, in their order."""
        if self.vectors_ND is None:
            return None
        position = {name: i for i, name in enumerate(self.rows)}
        return self.vectors_ND[[position[name] for name in names]]


def parse_baselines(text: str) -> Baselines:
    """``random``, ``pixels``, ``none`` and names of ``.npz`` files, separated by commas.

    >>> parse_baselines("random,other.npz")
    Baselines(random=True, pixels=False, files=(PosixPath('other.npz'),))
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    files = tuple(Path(part) for part in parts if part.endswith(".npz"))
    unknown = [
        part for part in parts if part not in ("random", "pixels", "none") and not part.endswith(".npz")
    ]
    if unknown or not parts or ("none" in parts and len(parts) > 1):
        raise OptionError(
            f"cannot compare with {text!r}",
            where="--compare",
            hint="use random, pixels, FILE.npz or several of them with commas between, or none",
        )
    return Baselines(random="random" in parts, pixels="pixels" in parts, files=files)


def random_floor(seed: int) -> Measured:
    """The floor of a seeded random ranking."""
    return Measured(info=MethodInfo(name=RANDOM, kind=f"random scores, seed {seed}"))


def stored(names: Sequence[str], path: Path) -> Measured:
    """Vectors of ``names`` out of a ``.npz`` file."""
    found = load_vectors(path)
    vectors_ND = align(names, found, where=str(path))
    info = MethodInfo(
        name=path.stem,
        kind=f"vectors of {path.name}" + (f", encoder {found.encoder}" if found.encoder else ""),
        width=vectors_ND.shape[1],
        digest=found.encoder_digest,
        preprocessing_digest=found.preprocessing_digest,
    )
    return Measured(info=info, rows=tuple(names), vectors_ND=vectors_ND)


def encode(records: Sequence[ImageRecord], encoder_name: str, progress: Progress | None) -> Measured:
    """Vectors of ``records`` by an encoder.

    Raises:
        WeightsError: no such encoder.
    """
    from clinical_clip.embed.bulk import embed_records
    from clinical_clip.embed.encoders import open_encoder

    encoder = open_encoder(encoder_name)
    report = progress or (lambda phase, done, total: None)
    embedded = embed_records(
        records,
        encoder,
        progress=lambda state: report(encoder.name, state.done + state.rejected, len(records)),
    )
    rows = tuple(record.name for record in embedded.records)
    preprocessing = encoder.preprocessing
    info = MethodInfo(
        name=encoder.name,
        kind="encoder",
        width=encoder.width,
        digest=encoder.digest,
        preprocessing=f"{preprocessing.size} px, {preprocessing.resize}, {preprocessing.interpolation}",
        preprocessing_digest=preprocessing.digest,
    )
    return Measured(
        info=info,
        rows=rows,
        vectors_ND=normalise(embedded.vectors_ND, rows),
        rejections=tuple(embedded.rejections),
    )


def pixel_floor(records: Sequence[ImageRecord], progress: Progress | None) -> Measured:
    """The 32x32-pixel vectors of ``records``; images that cannot be read are rejections."""
    from clinical_clip.data.load import load_pixels

    def one(record: ImageRecord) -> NDArray[np.float32] | Rejection:
        try:
            return pixel_vector(load_pixels(record))
        except ImageRejected as error:
            return Rejection.of(record.name, error)

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        found = list(_counted(pool.map(one, records), len(records), PIXELS, progress))
    pairs = zip(records, found, strict=True)
    kept = [(record.name, vector) for record, vector in pairs if not isinstance(vector, Rejection)]
    width = PIXEL_SIDE * PIXEL_SIDE
    return Measured(
        info=MethodInfo(name=PIXELS, kind="grey thumbnail, mean subtracted, cosine", width=width),
        rows=tuple(name for name, _ in kept),
        vectors_ND=np.stack([vector for _, vector in kept]) if kept else np.zeros((0, width), np.float32),
        rejections=tuple(item for item in found if isinstance(item, Rejection)),
    )


def _counted(items: Iterable[Item], total: int, phase: str, progress: Progress | None) -> Iterator[Item]:
    for done, item in enumerate(items, start=1):
        yield item
        if progress is not None:
            progress(phase, done, total)
