"""Reading the catalogue of a library: records, names, fields, counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from clinical_clip.errors import UnknownImageError
from clinical_clip.index import records, schema
from clinical_clip.index.catalogue import Catalogue, chunks
from clinical_clip.index.columns import BUILT_IN
from clinical_clip.types import ImageRecord, Patient, Rejection

__all__ = ["CatalogueReader", "LibraryInfo", "unknown_image"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LibraryInfo:
    """What ``index info`` shows.

    Attributes:
        images, studies, patients: counts; images without a study or a patient id are in none.
        seq: number of the latest commit.
        bytes_on_disk: of all files of the library.
        rejected: files that the last run did not index.
        notices: what was found and mended when the library was opened.
    """

    path: Path
    encoder_name: str
    encoder_digest: str
    preprocessing_digest: str
    width: int
    schema_version: int
    created_at: float
    images: int
    studies: int
    patients: int
    fields: tuple[str, ...]
    seq: int
    bytes_on_disk: int
    rejected: int
    notices: tuple[str, ...]


class CatalogueReader:
    """What can be asked of a library without its vectors. ``Library`` is one."""

    path: Path
    catalogue: Catalogue
    notices: list[str]

    def known(self, image_ids: Iterable[str]) -> set[str]:
        """Those of ``image_ids`` that are stored."""
        column = schema.items.c.image_id
        with self.catalogue.reading() as connection:
            return {
                image_id
                for part in chunks(list(image_ids))
                for image_id in connection.scalars(sa.select(column).where(column.in_(part)))
            }

    def ids(self) -> list[str]:
        """All image ids, in the order in which they were stored."""
        statement = sa.select(schema.items.c.image_id).order_by(schema.items.c.slot)
        with self.catalogue.reading() as connection:
            return list(connection.scalars(statement))

    def get(self, image_id: str) -> ImageRecord:
        """The stored record, without its patient.

        Raises:
            UnknownImageError: no such id.
        """
        with self.catalogue.reading() as connection:
            row = connection.execute(
                sa.select(schema.items).where(schema.items.c.image_id == image_id)
            ).first()
        if row is None:
            raise unknown_image()
        return records.from_row(row)

    def patient(self, image_id: str) -> Patient | None:
        """Who the image is of, for those who may know."""
        joined = schema.identities.join(schema.items)
        statement = (
            sa.select(schema.identities).select_from(joined).where(schema.items.c.image_id == image_id)
        )
        with self.catalogue.reading() as connection:
            row = connection.execute(statement).mappings().first()
        if row is None:
            return None
        return Patient(**{name: row[name] for name in records.IDENTITY_COLUMNS[1:]})

    def resolve(self, name: str) -> list[str]:
        """Image ids that ``name`` stands for: an id, a SOP instance, series or study UID, or a path.

        A path is the relative one that results show, with or without ``#frame``, or a full one.

        Raises:
            UnknownImageError: nothing has that name. The name is not repeated: a path may name a patient.
        """
        items = schema.items.c
        text = records.to_text(name)
        stem, _, frame = text.rpartition("#")
        tests: list[sa.ColumnElement[bool]] = [
            items.image_id == text,
            items.sop_instance_uid == text,
            items.series_uid == text,
            items.study_uid == text,
            items.relative_path == text,
            items.path == records.to_text(str(Path(name).absolute())),
        ]
        if frame.isdigit():
            number = items.frame == int(frame)
            tests.append(sa.and_(items.relative_path == stem, number))
            tests.append(sa.and_(items.path == str(Path(stem).absolute()), number))
        with self.catalogue.reading() as connection:
            for test in tests if name else []:
                statement = sa.select(items.image_id).where(test).order_by(items.slot)
                found = list(connection.scalars(statement))
                if found:
                    return found
        raise unknown_image()

    def vectors_of(self, image_ids: Sequence[str]) -> NDArray[np.float16]:
        """Stored vectors (N, D) of ``image_ids``, in their order.

        Raises:
            UnknownImageError: one is not stored.
        """
        items = schema.items.c
        slots: dict[str, int] = {}
        with self.catalogue.reading() as connection:
            for part in chunks(list(image_ids)):
                statement = sa.select(items.image_id, items.slot).where(items.image_id.in_(part))
                slots.update({row.image_id: row.slot for row in connection.execute(statement)})
            if any(image_id not in slots for image_id in image_ids):
                raise unknown_image()
            wanted = np.array([slots[image_id] for image_id in image_ids], dtype=np.int64)
            return self.catalogue.vectors_of(connection, wanted)

    def rows_of(self, slots: NDArray[np.int64]) -> dict[int, Any]:
        """Rows of ``items`` by slot; slots that are gone are left out."""
        table = schema.items
        with self.catalogue.reading() as connection:
            return {
                row.slot: row
                for part in chunks(slots.tolist())
                for row in connection.execute(sa.select(table).where(table.c.slot.in_(part)))
            }

    def names_of(self, slots: NDArray[np.int64]) -> list[str]:
        """Image ids of ``slots`` in their order; of a slot that is gone, the empty text."""
        table = schema.items.c
        found: dict[int, str] = {}
        with self.catalogue.reading() as connection:
            for part in chunks(slots.tolist()):
                statement = sa.select(table.slot, table.image_id).where(table.slot.in_(part))
                found.update({row.slot: row.image_id for row in connection.execute(statement)})
        return [found.get(slot, "") for slot in slots.tolist()]

    def slots_of_images(self, image_ids: Iterable[str]) -> NDArray[np.int64]:
        """Slots of those of ``image_ids`` that are stored, ascending."""
        return self._slots(schema.items.c.image_id, image_ids)

    def slots_of_patients(self, patient_keys: Iterable[str]) -> NDArray[np.int64]:
        """Slots of every image of the patients with these keys, ascending."""
        return self._slots(schema.items.c.patient_key, patient_keys)

    def slots_of_studies(self, study_uids: Iterable[str]) -> NDArray[np.int64]:
        """Slots of every image of these studies, ascending."""
        return self._slots(schema.items.c.study_uid, study_uids)

    def _slots(self, column: sa.Column[str], values: Iterable[str]) -> NDArray[np.int64]:
        wanted = sorted({value for value in values if value})
        slots: list[int] = []
        with self.catalogue.reading() as connection:
            for part in chunks(wanted):
                slots += connection.scalars(sa.select(schema.items.c.slot).where(column.in_(part)))
        return np.array(sorted(slots), dtype=np.int64)

    def patient_key(self, patient: Patient | None) -> str:
        """This library's keyed hash of a patient; empty where there is no patient id."""
        return records.patient_key(patient, secret=self.catalogue.made.secret)

    def field_names(self) -> tuple[str, ...]:
        """What can be filtered by, in order: what images carry, and the built-in columns."""
        with self.catalogue.reading() as connection:
            stored = set(connection.scalars(sa.select(schema.field_names.c.name)))
        return tuple(sorted(stored | set(BUILT_IN), key=lambda name: (name.casefold(), name)))

    def rejections(self) -> list[Rejection]:
        """What the last run did not index."""
        table = schema.rejections.c
        with self.catalogue.reading() as connection:
            rows = connection.execute(sa.select(table.name, table.code, table.what, table.hint)).all()
        return [Rejection(name=row.name, code=row.code, what=row.what, hint=row.hint) for row in rows]

    def info(self) -> LibraryInfo:
        """Counts and origins."""
        items = schema.items.c

        def distinct(column: sa.Column[str]) -> sa.Select[Any]:
            return sa.select(sa.func.count(column.distinct())).where(column != "")

        with self.catalogue.reading() as connection:
            images = self.catalogue.count(connection)
            studies = connection.scalar(distinct(items.study_uid)) or 0
            patients = connection.scalar(distinct(items.patient_key)) or 0
            rejected = connection.scalar(sa.select(sa.func.count()).select_from(schema.rejections)) or 0
            seq = self.catalogue.position(connection).seq
        return LibraryInfo(
            path=self.path,
            encoder_name=self.catalogue.made.encoder_name,
            encoder_digest=self.catalogue.made.encoder_digest,
            preprocessing_digest=self.catalogue.made.preprocessing_digest,
            width=self.catalogue.made.width,
            schema_version=schema.SCHEMA_VERSION,
            created_at=self.catalogue.made.created_at,
            images=images,
            studies=studies,
            patients=patients,
            fields=self.field_names(),
            seq=seq,
            bytes_on_disk=sum(file.stat().st_size for file in self.path.iterdir() if file.is_file()),
            rejected=rejected,
            notices=tuple(self.notices),
        )


def unknown_image() -> UnknownImageError:
    """The error for a name that stands for nothing stored."""
    return UnknownImageError(
        "no image of the index has that id, UID or path",
        where="query",
        hint="give an image id, a SOP instance, series or study UID, or a path as results show it",
    )
