"""The catalogue: what is stored, in one SQLite file that alone can rebuild everything else."""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from clinical_clip.errors import IndexCorrupt, IndexMismatch, IndexNotFound
from clinical_clip.index import records, schema
from clinical_clip.index.protocol import Position, VectorRows
from clinical_clip.index.storage import store_errors

__all__ = ["CATALOGUE", "Catalogue", "Made"]

CATALOGUE = "catalogue.sqlite"

Value = TypeVar("Value")

_BUSY_TIMEOUT_S = 10.0
_CHUNK = 500
"""Values in one IN (...): below every database's limit."""

_ROWS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """Who made a library: what a query must be made by, too.

    Attributes:
        secret: keys the hashes of patients; its ``repr`` does not show it.
    """

    library_id: str
    encoder_name: str
    encoder_digest: str
    preprocessing_digest: str
    width: int
    created_at: float
    secret: bytes

    def __repr__(self) -> str:
        return f"Made(library_id={self.library_id!r}, encoder_name={self.encoder_name!r}, width={self.width})"


class Catalogue:
    """Reads and transactions on the catalogue of one library.

    Args:
        folder: the library's folder.
        writable: open for writing; the caller holds the writer's lock.

    Raises:
        IndexNotFound: no catalogue there.
        IndexMismatch: written by another version of the schema.
        IndexCorrupt: not a catalogue, or a damaged one.
    """

    def __init__(self, folder: Path, *, writable: bool) -> None:
        self.path = folder / CATALOGUE
        if not self.path.is_file():
            raise IndexNotFound(
                "no index there",
                where=str(folder),
                hint="make one with: clinical-clip index add LIBRARY SOURCE",
            )
        self.engine = _engine(self.path, writable=writable)
        try:
            self.made = self._read_made()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def create(folder: Path, *, made: Made) -> None:
        """Write an empty catalogue into ``folder``."""
        engine = _engine(folder / CATALOGUE, writable=True)
        try:
            with store_errors(str(folder)), engine.begin() as connection:
                schema.metadata.create_all(connection)
                row = {"schema_version": schema.SCHEMA_VERSION, **asdict(made)}
                checksum = records.row_checksum(row, records.META_COLUMNS)
                counters = {"only": 1, "seq": 0, "next_slot": 1}
                connection.execute(schema.meta.insert().values(**row, **counters, checksum=checksum))
                connection.execute(
                    schema.commits.insert().values(seq=0, token=_token(), at=time.time(), stored=0, buried=0)
                )
        finally:
            engine.dispose()

    def _read_made(self) -> Made:
        with self.reading() as connection:
            try:
                version = connection.scalar(sa.select(schema.meta.c.schema_version))
            except sa.exc.OperationalError as error:
                if "no such" not in str(error.orig):
                    raise
                version = None
            if version is None:
                raise IndexCorrupt(
                    "the catalogue holds no library", where=str(self.path), hint="index the source again"
                )
            if version != schema.SCHEMA_VERSION:
                raise IndexMismatch(
                    f"the catalogue has schema {version}, this version reads {schema.SCHEMA_VERSION}",
                    where=str(self.path),
                    hint="use the version that wrote it, or index the source again",
                )
            row = connection.execute(sa.select(schema.meta)).one()
        return Made(
            library_id=row.library_id,
            encoder_name=row.encoder_name,
            encoder_digest=row.encoder_digest,
            preprocessing_digest=row.preprocessing_digest,
            width=row.width,
            created_at=row.created_at,
            secret=row.secret,
        )

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """One consistent snapshot; its rows do not change while it lasts."""
        with store_errors(str(self.path)), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One transaction that takes the database's write lock at its start; all of it or nothing."""
        with store_errors(str(self.path)), self.engine.connect() as plain:
            connection = plain.execution_options(immediate=True)
            with connection.begin():
                yield connection

    def checkpoint(self) -> bool:
        """Empty the write-ahead log, so that nothing deleted is left in it. False where a reader holds it."""
        with store_errors(str(self.path)):
            connection = self.engine.raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                row = cursor.fetchone()
                cursor.close()
                return row is not None and not row[0]
            finally:
                connection.close()

    def position(self, connection: sa.Connection) -> Position:
        """The latest commit."""
        row = connection.execute(
            sa.select(schema.commits.c.seq, schema.commits.c.token)
            .order_by(schema.commits.c.seq.desc())
            .limit(1)
        ).first()
        if row is None:
            raise IndexCorrupt(
                "the catalogue lost its history", where=str(self.path), hint="index the source again"
            )
        return Position(seq=row.seq, token=row.token)

    def knows(self, connection: sa.Connection, position: Position) -> bool:
        """Whether ``position`` is a point of this catalogue's own history."""
        statement = sa.select(schema.commits.c.token).where(schema.commits.c.seq == position.seq)
        return connection.scalar(statement) == position.token

    def count(self, connection: sa.Connection) -> int:
        """Images that are ready."""
        return connection.scalar(sa.select(sa.func.count()).select_from(schema.items)) or 0

    def buried_since(self, connection: sa.Connection, seq: int) -> NDArray[np.int64]:
        """Slots removed by commits after ``seq``, ascending."""
        table = schema.tombstones
        statement = sa.select(table.c.slot).where(table.c.seq > seq).order_by(table.c.slot)
        return np.array(connection.scalars(statement).all(), dtype=np.int64)

    def vector_rows(self, connection: sa.Connection, *, after: int = 0) -> Iterator[VectorRows]:
        """Slots above ``after`` and their vectors, ascending, in batches.

        Raises:
            IndexCorrupt: a stored vector differs from its checksum.
        """
        table = schema.vectors
        while True:
            statement = (
                sa.select(table.c.slot, table.c.vector, table.c.checksum)
                .join_from(table, schema.items)
                .where(table.c.slot > after)
                .order_by(table.c.slot)
                .limit(_ROWS)
            )
            rows = connection.execute(statement).all()
            if not rows:
                return
            yield ascending([row[0] for row in rows], after), self._decode(rows)
            after = rows[-1][0]

    def vectors_of(self, connection: sa.Connection, slots: NDArray[np.int64]) -> NDArray[np.float16]:
        """Vectors (M, D) of ``slots``, in their order.

        Raises:
            IndexCorrupt: one is missing or differs from its checksum.
        """
        found = self._blobs(connection, slots)
        if len(found) != len(set(slots.tolist())):
            raise IndexCorrupt("a stored vector is missing", where=str(self.path), hint="run index verify")
        return self._decode([found[slot] for slot in slots.tolist()])

    def vectors_held(self, connection: sa.Connection, slots: NDArray[np.int64]) -> VectorRows:
        """Those of ``slots`` that are stored, ascending, and their vectors.

        Raises:
            IndexCorrupt: one differs from its checksum.
        """
        found = self._blobs(connection, slots)
        held = sorted(found)
        return np.array(held, dtype=np.int64), self._decode([found[slot] for slot in held])

    def _blobs(self, connection: sa.Connection, slots: NDArray[np.int64]) -> dict[int, Any]:
        table = schema.vectors
        found: dict[int, Any] = {}
        for part in chunks(slots.tolist()):
            statement = sa.select(table.c.slot, table.c.vector, table.c.checksum).where(
                table.c.slot.in_(part)
            )
            found.update({row[0]: row for row in connection.execute(statement)})
        return found

    def _decode(self, rows: Sequence[Any]) -> NDArray[np.float16]:
        for slot, blob, checksum in rows:
            if records.blob_checksum(slot, blob) != checksum or len(blob) != 2 * self.made.width:
                raise IndexCorrupt(
                    "a stored vector is damaged in the catalogue",
                    where=f"{self.path}, slot {slot}",
                    hint="run index verify to name the images; remove them and add them again",
                )
        data = b"".join(row[1] for row in rows)
        return np.frombuffer(data, dtype="<f2").reshape(len(rows), self.made.width).astype(np.float16)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def chunks(values: Sequence[Value]) -> Iterator[Sequence[Value]]:
    """``values`` in parts that fit one IN (...).

    >>> [len(part) for part in chunks(range(1200))]
    [500, 500, 200]
    """
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]


def ascending(slots: Sequence[int], after: int) -> NDArray[np.int64]:
    """Slots that a query ordered by slot gave; a damaged table may give them in no order, and for ever.

    Raises:
        IndexCorrupt: they do not ascend from ``after``.
    """
    array = np.array([after, *slots], dtype=np.int64)
    if (np.diff(array) <= 0).any():
        raise IndexCorrupt("the catalogue's rows are out of order", where=CATALOGUE, hint="run index verify")
    return array[1:]


def new_commit(connection: sa.Connection, *, slots: int, stored: int, buried: int) -> Position:
    """Number the running transaction, and reserve ``slots`` slots that ``next_slot`` named."""
    connection.execute(
        schema.meta.update().values(seq=schema.meta.c.seq + 1, next_slot=schema.meta.c.next_slot + slots)
    )
    seq = connection.scalar(sa.select(schema.meta.c.seq)) or 0
    position = Position(seq=seq, token=_token())
    connection.execute(
        schema.commits.insert().values(
            seq=seq, token=position.token, at=time.time(), stored=stored, buried=buried
        )
    )
    return position


def _token() -> str:
    return secrets.token_hex(8)


def _engine(path: Path, *, writable: bool) -> sa.Engine:
    frozen = not writable and _on_frozen_disk(path)
    mode = "rwc" if writable else "ro"
    uri = f"{path.resolve().as_uri()}?mode={mode}{'&immutable=1' if frozen else ''}"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S, check_same_thread=False)

    engine = sa.create_engine(
        "sqlite+pysqlite://",
        creator=connect,
        poolclass=sa.pool.QueuePool,
        json_serializer=records.format_fields,
        json_deserializer=records.parse_fields,
    )

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        pragmas = ["foreign_keys=ON", "trusted_schema=OFF"]
        if writable:
            pragmas += ["secure_delete=ON", "journal_mode=WAL", "synchronous=FULL"]
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _on_frozen_disk(path: Path) -> bool:
    """A folder that cannot be written and holds no log: SQLite must not try to make one."""
    log = path.with_name(path.name + "-wal")
    return not os.access(path.parent, os.W_OK) and not (log.exists() and log.stat().st_size)


def delete_slots(connection: sa.Connection, slots: Iterable[int], seq: int) -> None:
    """Delete items with all that belongs to them, and bury their slots under commit ``seq``."""
    for part in chunks(list(slots)):
        connection.execute(schema.items.delete().where(schema.items.c.slot.in_(part)))
        connection.execute(schema.tombstones.insert(), [{"slot": slot, "seq": seq} for slot in part])
