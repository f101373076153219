"""``index verify``: nothing lost, nothing twice, nothing left over, every byte as it was written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from clinical_clip.errors import StoreError
from clinical_clip.index import records, schema
from clinical_clip.index.catalogue import Catalogue, chunks
from clinical_clip.index.protocol import VectorIndex
from clinical_clip.index.vectors import NORM_TOLERANCE

__all__ = ["VerifyReport", "verify_library"]

_ROWS = 2048
_NAMED = 20
"""Problems of one kind that are named one by one; the rest are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """What was counted, and what is wrong.

    The invariant: acknowledged ⊆ stored ⊆ catalogued; every image marked ready has exactly one vector, of
    norm 1 ± 1e-3 and finite, in the catalogue and, byte for byte the same, in the matrix.

    Attributes:
        items, vectors, matrix: images catalogued, vectors stored, vectors that a search can find.
        identities: images whose patient is known.
        acknowledged, missing: ids that were asked about, and those of them that are not stored.
        problems: one sentence each; none when all is well.
        notices: what was found and mended when the library was opened.
    """

    items: int
    vectors: int
    matrix: int
    identities: int
    acknowledged: int
    missing: int
    problems: tuple[str, ...]
    notices: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.problems


def verify_library(
    catalogue: Catalogue, index: VectorIndex, acknowledged: Iterable[str] = (), *, notices: Sequence[str] = ()
) -> VerifyReport:
    """Check catalogue and engine against themselves and each other. Raises nothing about damage."""
    problems: list[str] = []
    counts = dict.fromkeys(("items", "vectors", "identities"), 0)
    asked = list(acknowledged)
    missing = 0
    try:
        with catalogue.reading() as connection:
            problems += _database_problems(connection)
            for name, table in (("items", schema.items), ("vectors", schema.vectors)):
                counts[name] = connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
            counts["identities"] = connection.scalar(sa.select(sa.func.count(schema.identities.c.slot))) or 0
            problems += _capped(_row_problems(connection, catalogue.made.width, index))
            problems += _capped(_identity_problems(connection))
            problems += _engine_problems(connection, catalogue, index)
            missing = _missing(connection, asked)
    except StoreError as error:
        problems.append(f"the catalogue cannot be read through: {error.what}; {error.hint}")
    problems += index.verify()
    if missing:
        problems.append(f"{missing} of {len(asked)} acknowledged images are not stored")
    return VerifyReport(
        matrix=index.count,
        acknowledged=len(asked),
        missing=missing,
        problems=tuple(problems),
        notices=tuple(notices),
        **counts,
    )


def _database_problems(connection: sa.Connection) -> Iterator[str]:
    if connection.dialect.name != "sqlite":
        return
    for (line,) in connection.exec_driver_sql("PRAGMA integrity_check(20)"):
        if line != "ok":
            yield f"the catalogue is damaged: {line.splitlines()[0]}"
    orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if orphans:
        yield f"{len(orphans)} vectors or identities belong to no image"


def _row_problems(connection: sa.Connection, width: int, index: VectorIndex) -> Iterator[str]:
    """Every item with its vector: checksums, norm, and the same bytes in the engine."""
    items, vectors = schema.items, schema.vectors
    held = set(index.slots[index.slots > 0].tolist())
    after = 0
    while True:
        statement = (
            sa.select(items, vectors.c.vector, vectors.c.checksum.label("vector_checksum"))
            .select_from(items.outerjoin(vectors))
            .where(items.c.slot > after)
            .order_by(items.c.slot)
            .limit(_ROWS)
        )
        rows = connection.execute(statement).mappings().all()
        if not rows:
            return
        after = rows[-1]["slot"]
        whole = []
        for row in rows:
            name = f"image {row['image_id']}"
            if records.row_checksum(dict(row), records.ITEM_COLUMNS) != row["checksum"]:
                yield f"{name}: its row differs from its checksum; remove it and add it again"
            if row["vector"] is None:
                yield f"{name}: it has no vector; remove it and add it again"
            elif (
                len(row["vector"]) != 2 * width
                or records.blob_checksum(row["slot"], row["vector"]) != row["vector_checksum"]
            ):
                yield f"{name}: its stored vector is damaged; remove it and add it again"
            elif row["slot"] not in held:
                yield f"{name}: the matrix lacks its vector; run index rebuild"
            else:
                whole.append(row)
        if not whole:
            continue
        stored_ND = np.frombuffer(b"".join(row["vector"] for row in whole), "<f2").reshape(-1, width)
        found_ND = index.fetch(np.array([row["slot"] for row in whole], dtype=np.int64))
        norms_N = np.linalg.norm(stored_ND.astype(np.float64), axis=1)
        bad_norm = ~(np.abs(norms_N - 1) <= NORM_TOLERANCE)
        differs = (stored_ND.view("<u2") != found_ND.astype("<f2").view("<u2")).any(axis=1)
        for row, off, other in zip(whole, bad_norm, differs, strict=True):
            if off:
                yield f"image {row['image_id']}: its vector's norm is not 1"
            if other:
                yield f"image {row['image_id']}: the matrix holds another vector than the catalogue"


def _identity_problems(connection: sa.Connection) -> Iterator[str]:
    table = schema.identities
    for row in connection.execute(sa.select(table)).mappings():
        if records.row_checksum(dict(row), records.IDENTITY_COLUMNS) != row["checksum"]:
            yield f"slot {row['slot']}: the identity differs from its checksum"


def _engine_problems(connection: sa.Connection, catalogue: Catalogue, index: VectorIndex) -> Iterator[str]:
    latest = catalogue.position(connection)
    if index.position != latest:
        yield f"the matrix stands at commit {index.position.seq}, the catalogue at {latest.seq}"
    stored = set(connection.scalars(sa.select(schema.items.c.slot)))
    held = index.slots[index.slots > 0]
    extra = len(set(held.tolist()) - stored)
    if extra:
        yield f"the matrix holds {extra} vectors of images that are not catalogued"
    if len(np.unique(np.abs(index.slots))) != len(index.slots):
        yield "the matrix holds a vector twice"
    both = connection.scalar(
        sa.select(sa.func.count()).select_from(schema.tombstones.join(schema.items, _same_slot()))
    )
    if both:
        yield f"{both} images are both stored and removed"


def _same_slot() -> sa.ColumnElement[bool]:
    return schema.tombstones.c.slot == schema.items.c.slot


def _missing(connection: sa.Connection, image_ids: list[str]) -> int:
    column = schema.items.c.image_id
    wanted = list(dict.fromkeys(image_ids))
    found = sum(
        len(connection.scalars(sa.select(column).where(column.in_(part))).all()) for part in chunks(wanted)
    )
    return len(wanted) - found


def _capped(problems: Iterator[str]) -> Iterator[str]:
    more = 0
    for number, problem in enumerate(problems):
        if number < _NAMED:
            yield problem
        else:
            more += 1
    if more:
        yield f"and {more} more of this kind"
