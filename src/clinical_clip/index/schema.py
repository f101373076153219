"""The catalogue's tables, in SQLAlchemy Core so that another database can stand in for SQLite.

A *slot* numbers one stored version of one image. Slots only grow and are never used twice, and what a slot
stands for never changes: an update takes a new slot and buries the old one. Whatever follows the catalogue
(the matrix, columns in memory) can therefore catch up by slot alone.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

__all__ = [
    "SCHEMA_VERSION",
    "commits",
    "field_names",
    "identities",
    "items",
    "meta",
    "metadata",
    "rejections",
    "tombstones",
    "vectors",
]

SCHEMA_VERSION = 1

metadata = MetaData()

_Slot = BigInteger().with_variant(Integer, "sqlite")

meta = Table(
    "meta",
    metadata,
    Column("only", Integer, primary_key=True, autoincrement=False),
    Column("schema_version", Integer, nullable=False),
    Column("library_id", String(32), nullable=False),
    Column("encoder_name", Text, nullable=False),
    Column("encoder_digest", Text, nullable=False),
    Column("preprocessing_digest", Text, nullable=False),
    Column("width", Integer, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("next_slot", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("checksum", BigInteger, nullable=False),
)
"""One row: who made this library, and the two counters. ``secret`` keys the patient hashes."""

items = Table(
    "items",
    metadata,
    Column("slot", _Slot, primary_key=True, autoincrement=False),
    Column("image_id", Text, nullable=False, unique=True),
    Column("path", Text, nullable=False),
    Column("relative_path", Text, nullable=False, index=True),
    Column("frame", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("multi", Integer, nullable=False),
    Column("study_uid", Text, nullable=False, index=True),
    Column("series_uid", Text, nullable=False, index=True),
    Column("sop_instance_uid", Text, nullable=False, index=True),
    Column("patient_key", Text, nullable=False, index=True),
    Column("fields", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("added_at", Float, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("checksum", BigInteger, nullable=False),
)
"""What is shown and filtered by. Nothing here names a patient: ``patient_key`` is a keyed hash."""

vectors = Table(
    "vectors",
    metadata,
    Column("slot", _Slot, ForeignKey("items.slot", ondelete="CASCADE"), primary_key=True),
    Column("vector", LargeBinary, nullable=False),
    Column("checksum", BigInteger, nullable=False),
)
"""Little-endian float16, ``width * 2`` bytes each: enough to rebuild everything else."""

identities = Table(
    "identities",
    metadata,
    Column("slot", _Slot, ForeignKey("items.slot", ondelete="CASCADE"), primary_key=True),
    Column("patient_id", Text, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("birth_date", Text, nullable=False),
    Column("accession_number", Text, nullable=False),
    Column("checksum", BigInteger, nullable=False),
)
"""What identifies a patient (PS3.3 C.7.1.1), apart, and read only where it is needed."""

tombstones = Table(
    "tombstones",
    metadata,
    Column("slot", _Slot, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False, index=True),
)
"""Slots that are gone, and the commit that buried them."""

commits = Table(
    "commits",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("token", String(16), nullable=False),
    Column("at", Float, nullable=False),
    Column("stored", Integer, nullable=False),
    Column("buried", Integer, nullable=False),
)
"""One row a commit. The random token tells two histories with equal numbers apart."""

field_names = Table("field_names", metadata, Column("name", Text, primary_key=True))
"""Every name that ``items.fields`` has held."""

rejections = Table(
    "rejections",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("hint", Text, nullable=False),
)
"""The files that the last run did not index, and why."""
