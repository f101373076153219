"""A picture and what people wrote about it; a named set of such pairs with a digest of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from clinical_clip.errors import ManifestError

__all__ = ["CAPTION_SOURCE", "SPLITS", "SYNTHETIC", "Pair", "PairSet", "RowProblem", "split_name"]

SPLITS = ("train", "validation", "test")
"""The splits' names, however a data set spells them."""

SYNTHETIC = "synthetic_caption"
"""The label, ``1``, of a pair whose caption a program made."""

CAPTION_SOURCE = "caption_source"
"""The label that names the column a caption was taken from, where it is not the caption column."""

_ALIASES = {
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "testing": "test",
}
_NO_LABELS: Mapping[str, str] = MappingProxyType({})


def split_name(text: str) -> str:
    """The canonical name of a split.

    >>> split_name("valid"), split_name("Test"), split_name("fold3")
    ('validation', 'test', 'fold3')
    """
    name = text.strip().lower()
    return _ALIASES.get(name, name)


@dataclass(frozen=True, kw_only=True, slots=True)
class RowProblem:
    """One row of the metadata that could not be used, or not in full; the reading went on."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One image with its caption. Its ``repr`` shows no caption and no group: they may name a patient.

    Attributes:
        pair_id: unique in its set and stable: the data set's own id, or the image's relative path.
        image: the file that holds the pixels; empty (``Path()``) where it has not been found.
        frame: frame, slice or page of that file, from 0.
        caption: what was written about it, without surrounding white space.
        image_id: stable id of the image; two pairs of one image share it.
        article: what must not be cut apart by a split: PMC id, study or patient.
        split: ``train``, ``validation``, ``test``, another word, or empty.
        cuis: UMLS concepts of the caption, in the order given.
        semtypes: UMLS semantic types as (code, name) pairs.
        keywords: of the caption.
        licence: as its source states it.
        labels: whatever else is known, by name.
    """

    pair_id: str
    image: Path = field(repr=False)
    frame: int = 0
    caption: str = field(repr=False)
    image_id: str = field(default="", repr=False)
    article: str = field(default="", repr=False)
    split: str = ""
    cuis: tuple[str, ...] = field(default=(), repr=False)
    semtypes: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    keywords: tuple[str, ...] = field(default=(), repr=False)
    licence: str = field(default="", repr=False)
    labels: Mapping[str, str] = field(default_factory=lambda: _NO_LABELS, repr=False, hash=False)

    @property
    def has_image(self) -> bool:
        """Whether the image was found when the set was opened."""
        return self.image != Path()

    @property
    def synthetic(self) -> bool:
        """Whether a program made the caption, from labels, say."""
        return self.labels.get(SYNTHETIC) == "1"


@dataclass(frozen=True, kw_only=True)
class PairSet:
    """Pairs in a fixed order.

    Attributes:
        name: for people, such as ``ROCO test``.
        pairs: unique by ``pair_id``.
        missing: ids of pairs whose image was not found, whether or not they are among ``pairs``.
        problems: rows that could not be used, or not in full.
        uncaptioned: images that were left out because nothing was written about them.
        digest: sha256 (64 hex) over the pairs' ids and captions, in order. Not over the pixels.
    """

    name: str
    pairs: tuple[Pair, ...] = field(repr=False)
    missing: tuple[str, ...] = field(default=(), repr=False)
    problems: tuple[RowProblem, ...] = field(default=(), repr=False)
    uncaptioned: int = 0
    digest: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", _digest(self.pairs))

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that occur, train, validation and test first."""
        seen = dict.fromkeys(pair.split for pair in self.pairs)
        known = [name for name in SPLITS if name in seen]
        return (*known, *sorted(set(seen) - set(known)))

    @property
    def n_synthetic(self) -> int:
        """Pairs whose caption a program made."""
        return sum(pair.synthetic for pair in self.pairs)

    def split(self, name: str) -> PairSet:
        """The pairs of one split; ``val``, ``valid`` and ``validation`` are one.

        Raises:
            ManifestError: no pair is in that split.
        """
        wanted = split_name(name)
        chosen = tuple(pair for pair in self.pairs if pair.split == wanted)
        if not chosen:
            there = ", ".join(one or "(none)" for one in self.splits) or "no pairs at all"
            raise ManifestError(
                f"no pairs in split {wanted!r}", where=self.name, hint=f"there are: {there}; see `data split`"
            )
        return replace(self, name=f"{self.name} {wanted}", pairs=chosen)


def _digest(pairs: tuple[Pair, ...]) -> str:
    sha = hashlib.sha256()
    for pair in pairs:
        for text in (pair.pair_id, pair.caption):
            data = text.encode("utf-8", "surrogatepass")
            sha.update(len(data).to_bytes(8, "little"))
            sha.update(data)
    return sha.hexdigest()
