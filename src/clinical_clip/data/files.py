"""One file of a source: its format, its stable identity, and the records it yields."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from clinical_clip.data.nifti import slice_count
from clinical_clip.data.picture import page_count
from clinical_clip.data.sniff import Format, sniff
from clinical_clip.dicom.frames import DEFAULT_FRAMES, FramePolicy, evenly_spaced, select_frames
from clinical_clip.dicom.header import DicomHeader
from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.dicom.objects import DEFAULT_OBJECTS, ObjectPolicy, check_object
from clinical_clip.dicom.read import read_header
from clinical_clip.errors import CorruptImage, LimitExceeded, UnsupportedImage
from clinical_clip.types import FieldValue, ImageRecord, MediaKind

__all__ = ["FileContent", "Reader", "content_id", "open_regular", "readable_name"]

_HEAD = 1 << 16
_CHUNK = 1 << 18


@dataclass(frozen=True, kw_only=True, slots=True)
class FileContent:
    """What one file holds.

    Attributes:
        n_frames: frames, slices or pages in the file.
        frames: those that the frame policy takes, in order.
        digest: ``sha256:<hex>`` of the bytes, or the SOP Instance UID: the record ids' first part.
        header: of a DICOM file.
    """

    kind: MediaKind
    n_frames: int
    frames: tuple[int, ...]
    digest: str
    header: DicomHeader | None = None

    def records(
        self,
        path: Path,
        relative_path: str,
        *,
        frames: tuple[int, ...] | None = None,
        fields: Mapping[str, FieldValue] | None = None,
    ) -> list[ImageRecord]:
        """A record for each of ``frames`` (the policy's own choice where None is given)."""
        header = self.header
        shown = {**(header.fields if header else {}), **(fields or {})}
        return [
            ImageRecord(
                image_id=f"{self.digest}#{frame}",
                path=path,
                relative_path=relative_path,
                frame=frame,
                kind=self.kind,
                fields=shown,
                patient=header.patient if header else None,
                study_uid=header.study_uid if header else "",
                series_uid=header.series_uid if header else "",
                sop_instance_uid=header.sop_instance_uid if header else "",
                multi=self.n_frames > 1,
            )
            for frame in (self.frames if frames is None else frames)
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """Reads files by one set of policies and limits."""

    frames: FramePolicy = DEFAULT_FRAMES
    objects: ObjectPolicy = DEFAULT_OBJECTS
    limits: Limits = DEFAULT_LIMITS

    def read(self, path: Path, name: str) -> FileContent:
        """What the file at ``path`` holds; ``name`` stands in errors.

        Raises:
            ImageRejected: one of its kinds.
            OSError: the file cannot be opened or read.
        """
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > self.limits.max_file_bytes:
                raise LimitExceeded(f"a file of {size:,} bytes", where=name, hint="raise max_file_bytes")
            head = file.read(_HEAD)
            format_ = sniff(head, path.name)
            if format_ is Format.DICOM:
                return self._dicom(path, name)
            digest = content_id(file, head)
        if format_ is Format.NIFTI:
            return self._several(MediaKind.NIFTI, slice_count(path, limits=self.limits), digest, name)
        n_pages = page_count(path, limits=self.limits) if format_ is Format.TIFF else 1
        return self._several(MediaKind.PICTURE, n_pages, digest, name)

    def _several(self, kind: MediaKind, n: int, digest: str, name: str) -> FileContent:
        if n > self.limits.max_frames:
            raise LimitExceeded(f"{n:,} pages", where=name, hint="raise max_frames")
        frames = tuple(evenly_spaced(n, self.frames.max_per_file))
        return FileContent(kind=kind, n_frames=n, frames=frames, digest=digest)

    def _dicom(self, path: Path, name: str) -> FileContent:
        header = read_header(path, limits=self.limits)
        check_object(
            sop_class_uid=header.sop_class_uid,
            transfer_syntax_uid=header.transfer_syntax_uid,
            image_type=header.image_type,
            presentation_intent=header.presentation_intent,
            burned_in=header.burned_in,
            has_pixels=header.has_pixels,
            policy=self.objects,
            where=name,
        )
        digest = header.sop_instance_uid
        if not digest:
            with open_regular(path) as file:
                digest = content_id(file)
        frames = tuple(select_frames(header, path, self.frames, limits=self.limits))
        return FileContent(
            kind=MediaKind.DICOM, n_frames=header.n_frames, frames=frames, digest=digest, header=header
        )

    def with_frame(self, content: FileContent, frame: int, name: str) -> FileContent:
        """``content`` with ``frame`` alone.

        Raises:
            CorruptImage: there is no such frame.
        """
        if not 0 <= frame < content.n_frames:
            raise CorruptImage(
                f"no frame {frame}: the file has {content.n_frames}", where=name, hint="count frames from 0"
            )
        return replace(content, frames=(frame,))


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, and nothing else: a pipe or a device would block or never end.

    Raises:
        UnsupportedImage: not a regular file.
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnsupportedImage("not a regular file", where=path.name, hint="remove it from the source")
    return os.fdopen(descriptor, "rb", buffering=0)


def content_id(file: BinaryIO, head: bytes = b"") -> str:
    """``sha256:<hex>`` of ``head``, already read, and the rest of ``file``.

    >>> from io import BytesIO
    >>> content_id(BytesIO(b"bc"), b"a")[:23]
    'sha256:ba7816bf8f01cfea'
    """
    digest = hashlib.sha256(head)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def readable_name(name: str) -> str:
    """A file name as it may stand in a report: no control characters, valid UTF-8, at most 300 characters.

    >>> readable_name("a\\nb")
    'a\\\\nb'
    """
    text = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in name)
    return text if len(text) <= 300 else f"{text[:297]}..."
