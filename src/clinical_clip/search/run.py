"""Answering a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinical_clip.index import Library, Matches
from clinical_clip.index.protocol import Snapshot
from clinical_clip.index.records import from_row
from clinical_clip.search.filters import mask_of
from clinical_clip.search.grouping import first_of_each, group_sizes
from clinical_clip.search.query import Query, query_vector
from clinical_clip.types import Hit

__all__ = ["SearchResult", "search"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """The answer to one query.

    Attributes:
        hits: nearest first; scores are cosines rounded to 1e-6, and equal ones are in the order of image
            ids, so that the first five of fifteen are the first five of five.
        eligible: images that passed the filters and exclusions.
    """

    hits: tuple[Hit, ...]
    eligible: int


def search(library: Library, query: Query) -> SearchResult:
    """Find the images nearest to the query among those that pass. The same index gives the same answer.

    Raises:
        UnknownImageError, VectorError, FilterError, OptionError: the query cannot be answered.
    """
    query_QD = query_vector(library, query)[None, :]
    snapshot = library.snapshot()
    mask = _allowed(library, snapshot, query)
    while True:
        groups_N = library.column("study_uid", snapshot) if query.group_by else None
        codes_N = None if groups_N is None else _own_group_where_blank(groups_N.codes, groups_N.values)
        matches = _nearest(library, snapshot, query_QD, query.k, mask=mask, groups_N=codes_N)
        rows = library.rows_of(matches.slots)
        gone = [slot for slot in matches.slots.tolist() if slot not in rows]
        if not gone:
            break
        mask = _without(snapshot, mask, np.array(gone, dtype=np.int64))  # removed since the snapshot
    eligible_N = snapshot.slots > 0 if mask is None else mask & (snapshot.slots > 0)
    sizes = [1] * len(matches.slots)
    if codes_N is not None:
        chosen = codes_N[np.searchsorted(np.abs(snapshot.slots), matches.slots)]
        sizes = group_sizes(codes_N, chosen, eligible_N)
    hits = tuple(
        _hit(rank, score, rows[slot], size)
        for rank, (slot, score, size) in enumerate(
            zip(matches.slots.tolist(), matches.scores.tolist(), sizes, strict=True), start=1
        )
    )
    return SearchResult(hits=hits, eligible=int(np.count_nonzero(eligible_N)))


def _nearest(
    library: Library,
    snapshot: Snapshot,
    query_QD: NDArray[np.float64],
    k: int,
    *,
    mask: NDArray[np.bool_] | None,
    groups_N: NDArray[np.int32] | None,
) -> Matches:
    """The ``k`` nearest images, or the nearest image of each of the ``k`` nearest groups."""
    if groups_N is None:
        return snapshot.search(query_QD, k, mask=mask, tie_names=library.names_of)[0]
    held = np.abs(snapshot.slots)
    wanted = min(4 * k, len(held))
    while True:
        matches = snapshot.search(query_QD, max(1, wanted), mask=mask, tie_names=library.names_of)[0]
        firsts = first_of_each(groups_N[np.searchsorted(held, matches.slots)], k)
        if len(firsts) == k or len(matches.slots) < wanted or wanted >= len(held):
            return Matches(slots=matches.slots[firsts], scores=matches.scores[firsts])
        wanted = min(4 * wanted, len(held))


def _own_group_where_blank(codes_N: NDArray[np.int32], values: Sequence[Any]) -> NDArray[np.int32]:
    """Images without a study stand for themselves."""
    blank = [code for code, value in enumerate(values) if not value]
    if not blank:
        return codes_N
    return np.where(np.isin(codes_N, blank), np.int32(-1), codes_N)


def _allowed(library: Library, snapshot: Snapshot, query: Query) -> NDArray[np.bool_] | None:
    """Mask (N,) of what may be found; None for everything."""
    mask = mask_of(library, snapshot, query.where)
    left_out: list[NDArray[np.int64]] = []
    asked = library.slots_of_images(query.image_ids)
    if query.exclude_self:
        left_out.append(asked)
    if query.exclude_ids:
        left_out.append(library.slots_of_images(query.exclude_ids))
    if query.exclude_same_patient:
        rows = library.rows_of(asked).values()
        keys = {row.patient_key for row in rows} | {
            library.patient_key(patient) for patient in query.patients
        }
        studies = {row.study_uid for row in rows} | set(query.study_uids)
        left_out += [library.slots_of_patients(keys), library.slots_of_studies(studies)]
    for slots in left_out:
        mask = _without(snapshot, mask, slots)
    return mask


def _without(
    snapshot: Snapshot, mask: NDArray[np.bool_] | None, slots: NDArray[np.int64]
) -> NDArray[np.bool_] | None:
    if not len(slots):
        return mask
    held = np.abs(snapshot.slots)
    at = np.searchsorted(held, slots)
    at = at[(at < len(held)) & (held[np.minimum(at, len(held) - 1)] == slots)] if len(held) else at[:0]
    mask = np.ones(len(held), dtype=np.bool_) if mask is None else mask.copy()
    mask[at] = False
    return mask


def _hit(rank: int, score: float, row: Any, group_size: int) -> Hit:
    record = from_row(row)
    return Hit(
        rank=rank,
        score=score,
        image_id=record.image_id,
        relative_path=record.relative_path,
        path=Path(record.path),
        frame=record.frame,
        kind=record.kind,
        study_uid=record.study_uid,
        fields=record.fields,
        group_size=group_size,
    )
