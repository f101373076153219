"""Whatever holds images, opened as one stream of records and rejections."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from clinical_clip.data.columns import DEFAULT_COLUMNS, ManifestColumns
from clinical_clip.data.counts import SourceCounts
from clinical_clip.data.files import Reader
from clinical_clip.data.folder import scan_files, scan_tree
from clinical_clip.data.manifest import open_manifest
from clinical_clip.dicom.dicomdir import read_dicomdir
from clinical_clip.dicom.frames import DEFAULT_FRAMES, FramePolicy
from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.dicom.objects import DEFAULT_OBJECTS, ObjectPolicy
from clinical_clip.errors import ImageRejected, OptionError, SourceError
from clinical_clip.types import ImageRecord, Rejection

__all__ = ["Source", "open_source"]

_TABLES = {".csv", ".tsv", ".tab", ".parquet"}
_Scan = Callable[[SourceCounts], Iterator[ImageRecord | Rejection]]


class Source:
    """Records and rejections, streamed in a fixed order. Each iteration reads the files anew.

    Attributes:
        root: the folder that ``relative_path`` is relative to.
        description: one line for people, such as ``folder scans``.
        counts: of the latest iteration, complete once it has ended.
    """

    def __init__(self, root: Path, description: str, scan: _Scan) -> None:
        self.root = root
        self.description = description
        self.counts = SourceCounts()
        self._scan = scan

    def __iter__(self) -> Iterator[ImageRecord | Rejection]:
        self.counts = SourceCounts()
        return self._scan(self.counts)

    def __repr__(self) -> str:
        return f"Source({self.description})"


def open_source(
    path: Path,
    *,
    policy: FramePolicy = DEFAULT_FRAMES,
    objects: ObjectPolicy = DEFAULT_OBJECTS,
    limits: Limits = DEFAULT_LIMITS,
    image_root: Path | None = None,
    columns: ManifestColumns = DEFAULT_COLUMNS,
) -> Source:
    """Open a folder tree, a DICOMDIR, a manifest (CSV, TSV, Parquet) or a single image as a source.

    Args:
        path: what to open. Of a folder everything below is read; of a DICOMDIR the files that it references.
        policy: how many images a file and a series give.
        objects: which DICOM objects are indexed.
        limits: what one file may cost.
        image_root: the folder that a manifest's paths are relative to (the manifest's own by default).
        columns: which of a manifest's columns are what.

    Raises:
        SourceError: nothing there, or nothing that can be a source.
        ManifestError: a manifest that cannot be used.
        MissingDependency: a Parquet manifest without the ``evaluate`` extra.
        OptionError: ``image_root`` for something that is not a manifest.
    """
    reader = Reader(frames=policy, objects=objects, limits=limits)
    shown = path.name or str(path)
    if not os.path.lexists(path):
        raise SourceError("no such file or folder", where=str(path), hint="check the path")
    is_table = path.suffix.lower() in _TABLES and not path.is_dir()
    if image_root is not None and not is_table:
        raise OptionError("an image root belongs to a manifest", where=shown, hint="leave it out")
    if path.is_dir():
        root = path.resolve()
        return Source(root, f"folder {shown}", lambda counts: scan_tree(root, reader, counts))
    if is_table:
        manifest = open_manifest(path, image_root=image_root, columns=columns)
        return Source(manifest.image_root, f"manifest {shown}", lambda counts: manifest.scan(reader, counts))
    if path.name.upper() == "DICOMDIR":
        return _open_dicomdir(path, reader)
    return _open_file(path, reader)


def _open_file(path: Path, reader: Reader) -> Source:
    if not path.is_file():
        raise SourceError("not a regular file or folder", where=str(path), hint="give a file or a folder")
    root = path.parent.resolve()
    found: list[tuple[Path, str] | Rejection] = [(root / path.name, path.name)]
    return Source(root, f"file {path.name}", lambda counts: scan_files(iter(found), reader, counts))


def _open_dicomdir(path: Path, reader: Reader) -> Source:
    try:
        files, rejections = read_dicomdir(path, limits=reader.limits)
    except ImageRejected as error:
        raise SourceError(error.what, where=str(path), hint=error.hint) from None
    except OSError as error:
        raise SourceError(
            f"cannot be read: {error.strerror}", where=str(path), hint="check its permissions"
        ) from None
    root = path.parent.resolve()
    found: list[tuple[Path, str] | Rejection] = [
        *rejections,
        *((file, file.relative_to(root).as_posix()) for file in sorted(files)),
    ]

    def scan(counts: SourceCounts) -> Iterator[ImageRecord | Rejection]:
        counts.missing = len(rejections)
        return scan_files(iter(found), reader, counts)

    return Source(root, f"DICOMDIR in {root.name}", scan)
