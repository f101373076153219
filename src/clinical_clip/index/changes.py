"""The two transactions that change the catalogue: storing a batch, and removing images."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from clinical_clip.index import failpoints, records, schema
from clinical_clip.index.catalogue import Catalogue, chunks, delete_slots, new_commit
from clinical_clip.types import ImageRecord

__all__ = ["AddResult", "remove_images", "store_batch"]

_OWN = ("slot", "path", "relative_path", "added_at", "seq")
_SAME = tuple(name for name in records.ITEM_COLUMNS if name not in _OWN)
_IDENTITY = records.IDENTITY_COLUMNS[1:]


@dataclass(frozen=True, kw_only=True, slots=True)
class AddResult:
    """What one batch came to.

    Attributes:
        added: images that were not in the index.
        updated: images whose vector, fields or patient changed, or whose file moved.
        unchanged: images that were there already, repeats within the batch among them.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0

    def __add__(self, other: AddResult) -> AddResult:
        return AddResult(
            added=self.added + other.added,
            updated=self.updated + other.updated,
            unchanged=self.unchanged + other.unchanged,
        )


def store_batch(
    catalogue: Catalogue, batch: Sequence[ImageRecord], vectors_ND: NDArray[np.float16]
) -> AddResult:
    """Store records with their vectors in one transaction; when it returns, they are acknowledged.

    The first of several records with one id counts. A record that is stored already is left alone where
    nothing about it changed, and replaced, under a new slot, where something did.
    """
    secret = catalogue.made.secret
    wanted: dict[str, tuple[dict[str, Any], dict[str, Any] | None, bytes]] = {}
    for record, vector_D in zip(batch, vectors_ND, strict=True):
        if record.image_id not in wanted:
            item = records.item_row(record, secret=secret)
            identity = records.identity_row(record.patient) if record.patient else None
            wanted[record.image_id] = (item, identity, vector_D.astype("<f2").tobytes())
    failpoints.reach("add.begun")
    with catalogue.writing() as connection:
        stored = _stored(connection, list(wanted))
        changed = [image_id for image_id, row in wanted.items() if not _same(stored.get(image_id), row)]
        replaced = [stored[image_id][0].slot for image_id in changed if image_id in stored]
        if changed:
            first = connection.scalar(sa.select(schema.meta.c.next_slot)) or 1
            commit = new_commit(connection, slots=len(changed), stored=len(changed), buried=len(replaced))
            delete_slots(connection, replaced, commit.seq)
            _insert(connection, [wanted[image_id] for image_id in changed], first, commit.seq)
        failpoints.reach("add.before-commit")
    failpoints.reach("add.after-commit")
    added = len(changed) - len(replaced)
    return AddResult(added=added, updated=len(replaced), unchanged=len(batch) - len(changed))


def remove_images(catalogue: Catalogue, image_ids: Iterable[str]) -> int:
    """Delete images with their vectors, texts and identities in one transaction. Returns how many."""
    with catalogue.writing() as connection:
        slots = [row.slot for row in _rows(connection, list(dict.fromkeys(image_ids)), schema.items.c.slot)]
        if slots:
            commit = new_commit(connection, slots=0, stored=0, buried=len(slots))
            delete_slots(connection, slots, commit.seq)
        failpoints.reach("remove.before-commit")
    failpoints.reach("remove.after-commit")
    if slots:
        catalogue.checkpoint()
    return len(slots)


def _rows(connection: sa.Connection, image_ids: Sequence[str], *columns: Any) -> Iterable[Any]:
    for part in chunks(image_ids):
        yield from connection.execute(sa.select(*columns).where(schema.items.c.image_id.in_(part)))


def _stored(connection: sa.Connection, image_ids: Sequence[str]) -> dict[str, tuple[Any, Any, bytes]]:
    """Item, identity (or None) and vector of the images that are stored, by id."""
    items = {row.image_id: row for row in _rows(connection, image_ids, schema.items)}
    slots = [row.slot for row in items.values()]
    identities: dict[int, Any] = {}
    vectors: dict[int, bytes] = {}
    for part in chunks(slots):
        found = connection.execute(sa.select(schema.identities).where(schema.identities.c.slot.in_(part)))
        identities.update({row.slot: row for row in found})
        blobs = sa.select(schema.vectors.c.slot, schema.vectors.c.vector)
        vectors.update(
            {row.slot: row.vector for row in connection.execute(blobs.where(schema.vectors.c.slot.in_(part)))}
        )
    return {
        image_id: (row, identities.get(row.slot), vectors.get(row.slot, b""))
        for image_id, row in items.items()
    }


def _same(
    stored: tuple[Any, Any, bytes] | None, wanted: tuple[dict[str, Any], dict[str, Any] | None, bytes]
) -> bool:
    """Nothing changed. Another path alone is no change while the file is still where it was."""
    if stored is None:
        return False
    row, identity, blob = stored
    item, patient, vector = wanted
    if blob != vector or any(getattr(row, name) != item[name] for name in _SAME):
        return False
    if (identity is None) != (patient is None):
        return False
    if patient is not None and any(getattr(identity, name) != patient[name] for name in _IDENTITY):
        return False
    moved = (row.path, row.relative_path) != (item["path"], item["relative_path"])
    return not moved or Path(records.from_text(row.path)).exists()


def _insert(
    connection: sa.Connection,
    rows: Sequence[tuple[dict[str, Any], dict[str, Any] | None, bytes]],
    first: int,
    seq: int,
) -> None:
    now = time.time()
    items, vectors, identities = [], [], []
    names: set[str] = set()
    for slot, (item, identity, blob) in enumerate(rows, start=first):
        full = {"slot": slot, **item, "added_at": now, "seq": seq}
        checksum = records.row_checksum(full, records.ITEM_COLUMNS)
        items.append({**full, "checksum": checksum})
        vectors.append({"slot": slot, "vector": blob, "checksum": records.blob_checksum(slot, blob)})
        names.update(item["fields"])
        if identity is not None:
            named = {"slot": slot, **identity}
            identities.append({**named, "checksum": records.row_checksum(named, records.IDENTITY_COLUMNS)})
    connection.execute(schema.items.insert(), items)
    connection.execute(schema.vectors.insert(), vectors)
    if identities:
        connection.execute(schema.identities.insert(), identities)
    new = names - set(connection.scalars(sa.select(schema.field_names.c.name)))
    if new:
        connection.execute(schema.field_names.insert(), [{"name": name} for name in sorted(new)])
