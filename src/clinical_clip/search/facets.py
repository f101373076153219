"""How many images have each value of a field."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from clinical_clip.index import Library
from clinical_clip.search.filters import field_named, mask_of
from clinical_clip.types import FieldValue

__all__ = ["Facet", "facets"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Facet:
    """Counts of one field, among the images that pass the filters.

    Attributes:
        values: (value, count), most frequent first, equal counts by value; at most as many as asked for.
        distinct: how many values there are.
        blank: images without the field.
    """

    field: str
    values: tuple[tuple[FieldValue, int], ...]
    distinct: int
    blank: int


def facets(
    library: Library, fields: Iterable[str], *, where: Sequence[str] = (), limit: int = 50
) -> dict[str, Facet]:
    """Count the values of each field, by the name asked for.

    Raises:
        FilterError: a field that no image has, or a filter that does not parse.
    """
    snapshot = library.snapshot()
    mask = mask_of(library, snapshot, where)
    held = snapshot.slots > 0
    chosen = held if mask is None else held & mask
    counted = {}
    for name in fields:
        field = field_named(library, name)
        column = library.column(field, snapshot)
        codes = column.codes[chosen]
        counts = np.bincount(codes[codes >= 0], minlength=len(column.values))
        found = [(column.values[code], int(counts[code])) for code in np.flatnonzero(counts).tolist()]
        found.sort(key=lambda pair: (-pair[1], str(pair[0])))
        counted[name] = Facet(
            field=field, values=tuple(found[:limit]), distinct=len(found), blank=int((codes < 0).sum())
        )
    return counted
