"""``index verify``: nothing lost, nothing twice, nothing left over, every byte as it was written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from sqlalchemy import RowMapping

from clinical_clip.errors import StoreError
from clinical_clip.index import records, schema
from clinical_clip.index.catalogue import Catalogue, ascending, chunks
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
            problems += _history_problems(connection)
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
    listed = set(connection.scalars(sa.select(schema.field_names.c.name)))
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
        after = int(ascending([row["slot"] for row in rows], after)[-1])
        whole = []
        for row in rows:
            yield from (f"image {row['image_id']}: {problem}" for problem in _item_problems(row, listed))
            problem = _vector_problem(row, width, held)
            if problem:
                yield f"image {row['image_id']}: {problem}"
            else:
                whole.append(row)
        if whole:
            yield from _matrix_problems(whole, width, index)


def _item_problems(row: RowMapping, listed: set[str]) -> Iterator[str]:
    if not isinstance(row["fields"], dict) or not listed.issuperset(row["fields"]):
        yield "it has a field that is not listed"
    if records.row_checksum(dict(row), records.ITEM_COLUMNS) != row["checksum"]:
        yield "its row differs from its checksum; remove it and add it again"


def _vector_problem(row: RowMapping, width: int, held: set[int]) -> str:
    blob = row["vector"]
    if blob is None:
        return "it has no vector; remove it and add it again"
    if records.blob_checksum(row["slot"], blob) != row["vector_checksum"] or len(blob) != 2 * width:
        return "its stored vector is damaged; remove it and add it again"
    return "" if row["slot"] in held else "the matrix lacks its vector; run index rebuild"


def _matrix_problems(rows: Sequence[RowMapping], width: int, index: VectorIndex) -> Iterator[str]:
    stored_ND = np.frombuffer(b"".join(row["vector"] for row in rows), "<f2").reshape(-1, width)
    found_ND = index.fetch(np.array([row["slot"] for row in rows], dtype=np.int64))
    norms_N = np.linalg.norm(stored_ND.astype(np.float64), axis=1)
    bad_norm_N = ~(np.abs(norms_N - 1) <= NORM_TOLERANCE)
    differs_N = (stored_ND.view("<u2") != found_ND.astype("<f2").view("<u2")).any(axis=1)
    for row, bad_norm, differs in zip(rows, bad_norm_N, differs_N, strict=True):
        if bad_norm:
            yield f"image {row['image_id']}: its vector's norm is not 1"
        if differs:
            yield f"image {row['image_id']}: the matrix holds another vector than the catalogue"


def _identity_problems(connection: sa.Connection) -> Iterator[str]:
    table = schema.identities
    for row in connection.execute(sa.select(table)).mappings():
        if records.row_checksum(dict(row), records.IDENTITY_COLUMNS) != row["checksum"]:
            yield f"slot {row['slot']}: the identity differs from its checksum"


def _history_problems(connection: sa.Connection) -> Iterator[str]:
    """Every slot that was ever given is stored or buried, and every commit buried what it says."""
    row = connection.execute(sa.select(schema.meta)).mappings().one()
    if records.row_checksum(dict(row), records.META_COLUMNS) != row["checksum"]:
        yield "the library's description differs from its checksum"
    graves = schema.tombstones.c
    counts = [
        connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
        for table in (schema.items, schema.tombstones)
    ]
    if sum(counts) != row["next_slot"] - 1:
        yield f"{row['next_slot'] - 1} images were stored, but {counts[0]} are here and {counts[1]} removed"
    last = connection.scalar(sa.select(sa.func.max(schema.commits.c.seq)))
    if last != row["seq"]:
        yield f"the last commit is {last}, the library's description says {row['seq']}"
    buried: dict[int, int] = {}
    statement = sa.select(graves.seq, sa.func.count()).group_by(graves.seq)
    for seq, count in connection.execute(statement):
        buried[seq] = count
    commits = connection.execute(sa.select(schema.commits.c.seq, schema.commits.c.buried)).all()
    wrong = [seq for seq, count in commits if buried.pop(seq, 0) != count]
    if wrong or buried:
        yield "the record of removals differs from the commits"


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
