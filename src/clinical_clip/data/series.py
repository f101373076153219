"""DICOM files gathered into series, of which the frame policy takes its share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clinical_clip.data.counts import SourceCounts
from clinical_clip.data.files import FileContent, Reader, content_id, open_regular, readable_name
from clinical_clip.dicom.frames import evenly_spaced, position_key
from clinical_clip.dicom.header import DicomHeader
from clinical_clip.errors import CorruptImage, ImageRejected
from clinical_clip.types import ImageRecord, Rejection

__all__ = ["SeriesCollector"]

_KEPT = 20_000
"""Headers kept in memory; of a larger tree, the chosen files are read a second time instead."""

_SortKey = tuple[int, tuple[float, ...], float, float, str, str]


@dataclass(kw_only=True, slots=True)
class _Member:
    path: Path
    name: str
    key: _SortKey
    n_frames: int
    frames: tuple[int, ...]
    content: FileContent | None


class SeriesCollector:
    """Takes DICOM files in path order, and gives the images that the policy chooses, series by series.

    Files of one Series Instance UID are one series, wherever they lie; its localizers are another. A file
    without a series stands alone. Of two files with one SOP Instance UID the first is kept; the second is
    counted as a duplicate where its bytes are the same, and rejected where they differ.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._series: dict[tuple[str, bool], list[_Member]] = {}
        self._path_by_uid: dict[str, Path] = {}
        self._n_kept = 0

    def add(self, path: Path, name: str, content: FileContent, counts: SourceCounts) -> None:
        """Take one more file.

        Raises:
            CorruptImage: another file has the same SOP Instance UID and other bytes.
            OSError: one of the two cannot be read for the comparison.
        """
        header = content.header
        assert header is not None
        uid = header.sop_instance_uid
        if uid and (first := self._path_by_uid.setdefault(uid, path)) is not path:
            if not _same_bytes(first, path):
                raise CorruptImage(
                    "another file has the same SOP Instance UID and other bytes; the first was kept",
                    where=name,
                    hint="give each object a UID of its own",
                )
            counts.duplicates += 1
            return
        counts.used += 1
        self._n_kept += 1
        member = _Member(
            path=path,
            name=name,
            key=_sort_key(header, name),
            n_frames=content.n_frames,
            frames=content.frames,
            content=content if self._n_kept <= _KEPT else None,
        )
        group = (header.series_uid or f"file {name}", "LOCALIZER" in header.image_type)
        self._series.setdefault(group, []).append(member)

    def select(self, counts: SourceCounts) -> Iterator[ImageRecord | Rejection]:
        """The chosen images, in the order in which their series were first met; then nothing is kept."""
        while self._series:
            members = self._series.pop(next(iter(self._series)))
            members.sort(key=lambda member: member.key)
            images = [(member, frame) for member in members for frame in member.frames]
            chosen = evenly_spaced(len(images), self._reader.frames.max_per_series)
            frames_by_member: dict[int, tuple[_Member, list[int]]] = {}
            for member, frame in (images[i] for i in chosen):
                frames_by_member.setdefault(id(member), (member, []))[1].append(frame)
            counts.left_out += sum(member.n_frames for member in members) - len(chosen)
            for member, frames in frames_by_member.values():
                yield from self._records(member, tuple(frames), counts)

    def _records(
        self, member: _Member, frames: tuple[int, ...], counts: SourceCounts
    ) -> list[ImageRecord] | list[Rejection]:
        try:
            content = member.content or self._reader.read(member.path, member.name)
        except (ImageRejected, OSError):
            counts.used -= 1
            counts.rejected += 1
            return [
                Rejection(
                    name=readable_name(member.name),
                    code="source",
                    what="changed while the source was read",
                    hint="scan the source again",
                )
            ]
        records = content.records(member.path, member.name, frames=frames)
        counts.images += len(records)
        return records


def _sort_key(header: DicomHeader, name: str) -> _SortKey:
    """By stack and place where there is a geometry; then by Instance Number, by UID, and by name."""
    number = math.inf if header.instance_number is None else float(header.instance_number)
    place = position_key(header.position, header.orientation)
    if place is None:
        return (1, (), 0.0, number, header.sop_instance_uid, name)
    return (0, *place, number, header.sop_instance_uid, name)


def _same_bytes(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with open_regular(one) as first, open_regular(other) as second:
        return content_id(first) == content_id(second)
