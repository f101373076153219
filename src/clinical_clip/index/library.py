"""One library of images on disk: what the commands, the service and the evaluation talk to."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from clinical_clip.errors import (
    IndexBusy,
    IndexCorrupt,
    IndexMismatch,
    StoreError,
    VectorError,
)
from clinical_clip.index import changes, records, schema
from clinical_clip.index.catalogue import CATALOGUE, Catalogue, Made
from clinical_clip.index.changes import AddResult
from clinical_clip.index.columns import Column, Columns
from clinical_clip.index.create import create_folder
from clinical_clip.index.exact import ExactIndex
from clinical_clip.index.follow import catch_up, refill
from clinical_clip.index.lock import WriterLock
from clinical_clip.index.lookup import CatalogueReader
from clinical_clip.index.protocol import Snapshot, VectorRows
from clinical_clip.index.storage import store_errors
from clinical_clip.index.vectors import as_stored
from clinical_clip.index.verify import VerifyReport, verify_library
from clinical_clip.types import ImageRecord, Rejection

__all__ = ["Library"]

_LOCK = "writer.lock"


class Library(CatalogueReader):
    """An index on disk, opened. Use it as a context manager; ``open`` and ``create`` make one.

    Searching is safe from several threads; adding, removing and refreshing belong to one thread. A library
    sees what was committed when it was opened or last ``refresh``ed.

    Attributes:
        path: the folder.
        made: encoder, width and digests it was made with.
        catalogue, vectors: the two halves, for the modules of this package and of search.
        notices: what was found and mended, one sentence each.
    """

    def __init__(self, path: Path, *, writable: bool) -> None:
        self.path = path
        self.notices: list[str] = []
        self._lock: WriterLock | None = None
        self._columns = Columns()
        if not (path / CATALOGUE).is_file():
            writable = False  # the catalogue says what is missing; do not leave a lock file there
        if writable:
            self._lock = WriterLock(path / _LOCK)
        try:
            self.catalogue = Catalogue(path, writable=writable)
            self.made = self.catalogue.made
            self.vectors = self._engine(writable=writable)
            self._load()
        except BaseException:
            self._let_go()
            raise

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        encoder_name: str,
        width: int,
        encoder_digest: str,
        preprocessing_digest: str,
    ) -> Library:
        """Make an empty library at ``path`` and open it for writing.

        It is made beside ``path`` and renamed, so that a crash leaves nothing half made.

        Raises:
            StoreError: something is there already, or the disk refuses.
        """
        made = Made(
            library_id=secrets.token_hex(16),
            encoder_name=encoder_name,
            encoder_digest=encoder_digest,
            preprocessing_digest=preprocessing_digest,
            width=width,
            created_at=time.time(),
            secret=secrets.token_bytes(32),
        )
        create_folder(Path(path), made=made)
        return cls(Path(path), writable=True)

    @classmethod
    def open(cls, path: Path | str, *, writable: bool = False) -> Library:
        """Open the library at ``path``; a damaged or lagging matrix is mended from the catalogue.

        Raises:
            IndexNotFound: nothing there.
            IndexBusy: ``writable``, and another process is writing.
            IndexMismatch: another schema version.
            IndexCorrupt: the catalogue itself is damaged.
        """
        return cls(Path(path), writable=writable)

    def _engine(self, *, writable: bool) -> ExactIndex:
        return ExactIndex(
            self.path,
            library_id=self.made.library_id,
            width=self.made.width,
            writable=writable,
            repair=self._repair,
        )

    def _repair(self, slots: NDArray[np.int64]) -> VectorRows:
        with self.catalogue.reading() as connection:
            return self.catalogue.vectors_held(connection, slots)

    @property
    def writable(self) -> bool:
        """This process may add and remove."""
        return self._lock is not None

    def _load(self) -> None:
        """Open the matrix and bring it up to the catalogue, or make it anew where it is wrong."""
        for last in (False, True):
            try:
                self.vectors = self._fresh()
                return
            except IndexCorrupt as error:
                if last or self.writable:  # a writer may have switched files between a reader's two reads
                    self._replace_matrix(error)
                    return

    def _fresh(self, *, complete: bool = True) -> ExactIndex:
        vectors = self._engine(writable=self.writable)
        try:
            with store_errors(str(self.path)):
                vectors.load()
            self._follow(vectors, complete=complete)
        except BaseException:
            vectors.close()
            raise
        return vectors

    def _follow(self, vectors: ExactIndex, *, complete: bool = True) -> None:
        """Catch up with the catalogue and write it down; a full disk only delays the writing."""
        with self.catalogue.reading() as connection:
            latest = catch_up(vectors, self.catalogue, connection, complete=complete)
        try:
            with store_errors(str(self.path)):
                vectors.flush(latest)
        except IndexCorrupt:
            raise
        except StoreError as error:
            self._notice(f"the matrix could not be written and will be later: {error.what}")

    def _replace_matrix(self, error: IndexCorrupt) -> None:
        """Make the matrix anew: in its files where they can be written, else in memory."""
        self._notice(f"the matrix was made anew from the catalogue: {error.what} ({error.where})")
        lock = None
        try:
            if not self.writable:
                lock = WriterLock(self.path / _LOCK)
            self._refill(self._engine(writable=True))
            if lock is not None:
                self.vectors.close()
                self.vectors = self._fresh(complete=False)
        except (IndexBusy, StoreError) as refusal:
            if isinstance(refusal, IndexCorrupt):
                raise
            self._notice(f"it is in memory only: {refusal.what}")
            self._refill(self._engine(writable=False))
        finally:
            if lock is not None:
                lock.release()

    def _refill(self, vectors: ExactIndex) -> None:
        with store_errors(str(self.path)), self.catalogue.reading() as connection:
            refill(vectors, self.catalogue, connection)
        self.vectors = vectors

    def _notice(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)

    def check_encoder(self, *, encoder_name: str, encoder_digest: str, preprocessing_digest: str) -> None:
        """Refuse an encoder other than the one the library was made with.

        Raises:
            IndexMismatch: naming which of the three differs.
        """
        given = {
            "encoder": (encoder_name, self.made.encoder_name),
            "encoder weights": (encoder_digest, self.made.encoder_digest),
            "preprocessing": (preprocessing_digest, self.made.preprocessing_digest),
        }
        for what, (now, then) in given.items():
            if now != then:
                raise IndexMismatch(
                    f"the index was made with {what} {then[:24]}, not {now[:24]}",
                    where=str(self.path),
                    hint="use that encoder, or index the source again into a new folder",
                )

    def add(self, batch: Sequence[tuple[ImageRecord, NDArray[np.float32]]]) -> AddResult:
        """Store records with their unit vectors (width,), all or none; on return they are acknowledged.

        Idempotent by image id: what has not changed stays as it is.

        Raises:
            VectorError: a vector of another width, not finite, or of a norm outside 1 ± 1e-3.
            StoreError: not opened for writing, or the disk refuses; nothing of the batch is stored then.
        """
        self._must_write()
        if not batch:
            return AddResult()
        shapes = {np.shape(vector) for _, vector in batch}
        stacked = np.stack([vector for _, vector in batch]) if len(shapes) == 1 else batch[0][1]
        for shape in shapes - {(self.made.width,)}:
            raise VectorError(
                f"a vector of shape {shape} where the index holds width {self.made.width}",
                hint="embed with the encoder that made the index (see index info)",
            )
        vectors_ND = as_stored(stacked, self.made.width)
        result = changes.store_batch(self.catalogue, [record for record, _ in batch], vectors_ND)
        self._after_change()
        return result

    def remove(self, image_ids: Iterable[str]) -> int:
        """Delete images with vector, identity, fields and row; unknown ids are ignored. Returns how many.

        Deleted content is overwritten, in the catalogue, its log and the matrix.

        Raises:
            StoreError: not opened for writing, or the disk refuses; nothing is deleted then.
        """
        self._must_write()
        if isinstance(image_ids, str):
            image_ids = [image_ids]
        removed = changes.remove_images(self.catalogue, image_ids)
        if removed:
            self._after_change()
        return removed

    def _must_write(self) -> None:
        if self._lock is None:
            raise StoreError(
                "the index is open for reading only", where=str(self.path), hint="open it with writable=True"
            )

    def _after_change(self) -> None:
        """Bring the matrix up. The change is committed: whatever fails here is mended, not reported back."""
        try:
            self._follow(self.vectors)
        except IndexCorrupt as error:
            self._replace_matrix(error)

    def refresh(self) -> bool:
        """See what other processes committed since. True where anything changed."""
        with self.catalogue.reading() as connection:
            latest = self.catalogue.position(connection)
        if latest == self.vectors.position:
            return False
        if not self.vectors.stale:
            try:
                self._follow(self.vectors)
                return True
            except IndexCorrupt:
                pass
        old = self.vectors
        self._load()
        old.close()
        return True

    def snapshot(self) -> Snapshot:
        """The vectors as they are now, for one search with all its masks."""
        return self.vectors.snapshot()

    def column(self, name: str, snapshot: Snapshot) -> Column:
        """The values of one field over the snapshot's slots: loaded on first use, extended as images come."""
        with self.catalogue.reading() as connection:
            return self._columns.get(connection, name, snapshot.slots)

    def note_rejections(self, rejections: Iterable[Rejection]) -> None:
        """Keep what the last run did not index, in place of what the run before did not."""
        self._must_write()
        rows = [
            {
                "number": number,
                "name": records.to_text(r.name),
                "code": r.code,
                "what": r.what,
                "hint": r.hint,
            }
            for number, r in enumerate(rejections)
        ]
        with self.catalogue.writing() as connection:
            connection.execute(schema.rejections.delete())
            if rows:
                connection.execute(schema.rejections.insert(), rows)

    def __len__(self) -> int:
        return self.vectors.count

    def verify(self, acknowledged: Iterable[str] = ()) -> VerifyReport:
        """Check everything against everything; see ``VerifyReport``. Finds damage, mends nothing.

        Args:
            acknowledged: image ids that must be stored.
        """
        self.refresh()
        return verify_library(self.catalogue, self.vectors, acknowledged, notices=self.notices)

    def rebuild(self) -> None:
        """Make the matrix anew from the catalogue, without removed rows; a crash leaves the old one.

        Raises:
            StoreError: not opened for writing, or the disk refuses.
            IndexCorrupt: the catalogue itself is damaged.
        """
        self._must_write()
        vectors = self._engine(writable=True)
        old = self.vectors
        self._refill(vectors)
        if old is not vectors:
            old.close()
        self.notices.clear()

    def close(self) -> None:
        """Close all files and let the next writer in. Harmless when called twice."""
        self._let_go()

    def __enter__(self) -> Library:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _let_go(self) -> None:
        for part in ("vectors", "catalogue"):
            if hasattr(self, part):
                getattr(self, part).close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None
