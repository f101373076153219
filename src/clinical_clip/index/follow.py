"""Bringing a vector engine up to the catalogue: pull what changed since the engine's own position."""

from __future__ import annotations

import sqlalchemy as sa

from clinical_clip.errors import IndexCorrupt
from clinical_clip.index.catalogue import Catalogue
from clinical_clip.index.protocol import Position, VectorIndex

__all__ = ["catch_up", "refill"]


def catch_up(
    index: VectorIndex, catalogue: Catalogue, connection: sa.Connection, *, complete: bool = True
) -> Position:
    """Apply every commit that the engine has not seen; does not flush. Returns the position reached.

    Args:
        index, catalogue: the engine, and what it follows.
        connection: a snapshot of the catalogue.
        complete: the engine must then hold as many vectors as the catalogue has images.

    Raises:
        IndexCorrupt: the engine is ahead of the catalogue, of another history, or holds another number
            of vectors: ``refill`` it.
    """
    latest = catalogue.position(connection)
    if not catalogue.knows(connection, index.position):
        raise IndexCorrupt(
            "the matrix is not of this catalogue's history (an older copy was restored?)",
            where=catalogue.path.parent.name,
            hint="run index rebuild",
        )
    if index.position != latest:
        index.remove(catalogue.buried_since(connection, index.position.seq))
        held = index.slots
        for slots, vectors_ND in catalogue.vector_rows(
            connection, after=int(abs(held[-1])) if len(held) else 0
        ):
            index.upsert(slots, vectors_ND)
    if complete and index.count != catalogue.count(connection):
        raise IndexCorrupt(
            f"the matrix holds {index.count} vectors, the catalogue {catalogue.count(connection)} images",
            where=catalogue.path.parent.name,
            hint="run index rebuild",
        )
    return latest


def refill(index: VectorIndex, catalogue: Catalogue, connection: sa.Connection) -> Position:
    """Replace all that the engine holds by what the catalogue holds."""
    latest = catalogue.position(connection)
    index.rebuild(catalogue.vector_rows(connection), latest)
    return latest
