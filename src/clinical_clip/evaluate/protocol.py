"""Which images a query may retrieve, which queries count, and by what they are judged.

N gallery items; codes as in :mod:`clinical_clip.evaluate.table`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from clinical_clip.errors import OptionError
from clinical_clip.evaluate.table import Table

__all__ = ["DEFAULT_GROUP", "GalleryRule", "MinRelevant", "Protocol", "gallery_counts"]

DEFAULT_GROUP = "split_group"


class GalleryRule(StrEnum):
    """The gallery of a query: every other row, or only those of other groups or other sources."""

    ALL = "all"
    OTHER_GROUP = "other-group"
    OTHER_SOURCE = "other-source"


class MinRelevant(StrEnum):
    """How many relevant items a query's gallery must hold for the query to count."""

    NONE = "none"
    ONE = "1"
    MAX_K = "maxk"


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """What is measured.

    Attributes:
        labels: label settings, each one or several columns that must all agree.
        gallery: what a query may retrieve.
        ks: the cut-offs K, ascending.
        min_relevant: queries whose gallery holds fewer relevant items are left out and counted. By default
            the largest K, so that every P@K can reach 100 % and all K are means over the same queries.
        group_column: patient, study or near-duplicate group; excluded by ``other-group``, and the unit that
            is resampled, where the manifest has it. Where the default one is absent, ``patient`` or
            ``study`` of the records takes its place.
        source_column: data set or site; excluded by ``other-source``, and what the macro average is over.
        replicates: bootstrap resamples and permutations; 0 for none.
        seed: of the resampling and of the random ranking.
    """

    labels: tuple[tuple[str, ...], ...]
    gallery: GalleryRule = GalleryRule.ALL
    ks: tuple[int, ...] = (5, 10, 30)
    min_relevant: MinRelevant = MinRelevant.MAX_K
    group_column: str = DEFAULT_GROUP
    source_column: str = "source"
    replicates: int = 2000
    seed: int = 42

    def __post_init__(self) -> None:
        if not self.labels:
            raise OptionError("no label setting", where="labels", hint="name at least one column")
        if not self.ks or min(self.ks) < 1:
            listed = ",".join(map(str, self.ks))
            raise OptionError(f"K must be at least 1: {listed!r}", where="k", hint="for example --k 5,10,30")
        if self.replicates < 0:
            raise OptionError("a negative number of resamples", where="bootstrap", hint="0 turns it off")
        if self.seed < 0:
            raise OptionError("a negative seed", where="seed", hint="use 0 or more")
        object.__setattr__(self, "ks", tuple(sorted(set(self.ks))))

    @property
    def needed(self) -> int:
        """Relevant items that a query must be able to find."""
        return {MinRelevant.NONE: 0, MinRelevant.ONE: 1, MinRelevant.MAX_K: max(self.ks)}[self.min_relevant]

    @property
    def exclusion_column(self) -> str | None:
        """The column whose value a query may not share with its gallery, if any."""
        column = {GalleryRule.OTHER_GROUP: self.group_column, GalleryRule.OTHER_SOURCE: self.source_column}
        return column.get(self.gallery)

    def exclusion(self, table: Table) -> NDArray[np.int64] | None:
        """Codes of the column that the gallery rule excludes by; -1 (empty) excludes only the query itself.

        Raises:
            ManifestError: the rule needs a column that the manifest does not have.
        """
        return None if self.exclusion_column is None else table.codes(self.exclusion_column).code_N


def gallery_counts(
    label_N: NDArray[np.int64], exclusion_N: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Relevant and eligible gallery items of every item as a query; both int64 (N,).

    >>> r, e = gallery_counts(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
    >>> r.tolist(), e.tolist()
    ([1, 1, 2, 0], [2, 2, 2, 2])
    """
    size, same = len(label_N), np.bincount(label_N)[label_N]
    alone_N = np.ones(size, dtype=np.int64)
    if exclusion_N is None:
        return same - alone_N, size - alone_N
    known_N = exclusion_N >= 0
    _, inverse, cell = np.unique(
        np.stack([exclusion_N, label_N]), axis=1, return_inverse=True, return_counts=True
    )
    out_relevant_N = np.where(known_N, cell[inverse.reshape(-1)], 1)
    out_N = np.where(known_N, np.bincount(exclusion_N + 1)[exclusion_N + 1], 1)
    return same - out_relevant_N, size - out_N
