"""The files of a folder tree, in a fixed order, without leaving the folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from clinical_clip.data.counts import SourceCounts
from clinical_clip.data.files import Reader, readable_name
from clinical_clip.data.series import SeriesCollector
from clinical_clip.data.sniff import is_hidden, is_passed_over
from clinical_clip.dicom.dicomdir import read_dicomdir
from clinical_clip.dicom.limits import Limits
from clinical_clip.errors import ImageRejected
from clinical_clip.types import ImageRecord, Rejection

__all__ = ["scan_files", "scan_tree", "unreadable"]


def scan_tree(root: Path, reader: Reader, counts: SourceCounts) -> Iterator[ImageRecord | Rejection]:
    """Everything below ``root``: pictures, volumes and rejections in path order, then DICOM by series.

    DICOM waits for the end of the walk, because the frame policy chooses among a whole series, whose files
    may lie anywhere in the tree. A DICOMDIR adds what it references and the tree lacks, as rejections.
    """
    yield from scan_files(_walk(root, counts, reader.limits), reader, counts)


def scan_files(
    found: Iterator[tuple[Path, str] | Rejection], reader: Reader, counts: SourceCounts
) -> Iterator[ImageRecord | Rejection]:
    """What the found files hold. Each is a path and its name relative to the root, or a rejection
    that is counted already.
    """
    series = SeriesCollector(reader)
    for one in found:
        if isinstance(one, Rejection):
            yield one
        else:
            counts.files += 1
            yield from _scan_file(*one, reader, series, counts)
    yield from series.select(counts)


def _scan_file(
    path: Path, name: str, reader: Reader, series: SeriesCollector, counts: SourceCounts
) -> list[ImageRecord] | list[Rejection]:
    try:
        content = reader.read(path, name)
        if content.header is not None:
            series.add(path, name, content, counts)
            return []
        counts.used += 1
        counts.left_out += content.n_frames - len(content.frames)
        records = content.records(path, name)
        counts.images += len(records)
        return records
    except ImageRejected as error:
        counts.rejected += 1
        return [Rejection.of(readable_name(name), error)]
    except OSError as error:
        counts.rejected += 1
        return [unreadable(name, error)]


def unreadable(name: str, error: OSError) -> Rejection:
    """The rejection of a file or folder that the operating system does not let us read."""
    why = (error.strerror or type(error).__name__).lower()
    return Rejection(
        name=readable_name(name), code="source", what=f"cannot be read: {why}", hint="check its permissions"
    )


def _walk(root: Path, counts: SourceCounts, limits: Limits) -> Iterator[tuple[Path, str] | Rejection]:
    """Files below ``root``, depth first, names in code point order."""
    real_root = os.path.realpath(root)
    stack: list[Iterator[os.DirEntry[str]] | Rejection] = [_entries(str(root), "")]
    prefixes = [""]
    while stack:
        top = stack[-1]
        entry = None if isinstance(top, Rejection) else next(top, None)
        if isinstance(top, Rejection):
            counts.missing += 1
            yield top
        if entry is None:
            stack.pop()
            prefixes.pop()
            continue
        name = prefixes[-1] + entry.name
        if entry.is_dir(follow_symlinks=False):
            if not is_hidden(entry.name):
                stack.append(_entries(entry.path, name))
                prefixes.append(name + "/")
            continue
        if entry.name.upper() == "DICOMDIR" and entry.is_file(follow_symlinks=False):
            rejections = _directory_rejections(Path(entry.path), name, limits)
            counts.missing += len(rejections)
            yield from rejections
        if is_passed_over(entry.name):
            counts.files += 1
            counts.ignored += 1
            continue
        refused = _refused(entry, name, real_root)
        if refused is None:
            yield Path(entry.path), name
            continue
        counts.files += 1
        if refused is _INSIDE:
            counts.ignored += 1
        else:
            counts.rejected += 1
            yield refused


def _entries(folder: str, name: str) -> Iterator[os.DirEntry[str]] | Rejection:
    try:
        with os.scandir(folder) as entries:
            return iter(sorted(entries, key=lambda entry: entry.name))
    except OSError as error:
        return unreadable(name or ".", error)


_INSIDE = Rejection(name="", code="", what="a link to a folder inside, which is read at its own place")


def _refused(entry: os.DirEntry[str], name: str, real_root: str) -> Rejection | None:
    """Why an entry is not opened, or None. A link to a file inside the root is opened like the file."""
    if any("\ud800" <= one <= "\udfff" for one in name):
        return _refusal(name, "a file name that is not valid UTF-8", "rename the file")
    if entry.is_symlink():
        return _refused_link(entry, name, real_root)
    regular = entry.is_file(follow_symlinks=False)
    return None if regular else _refusal(name, "not a regular file", "remove it from the source")


def _refused_link(entry: os.DirEntry[str], name: str, real_root: str) -> Rejection | None:
    target = os.path.realpath(entry.path)
    if not (target == real_root or target.startswith(real_root.rstrip(os.sep) + os.sep)):
        return _refusal(name, "a link that leaves the folder", "copy the file into the folder")
    if os.path.isdir(target):
        return _INSIDE
    if not os.path.exists(target):
        return _refusal(name, "a link to nothing", "fetch the file that it stands for")
    return None


def _refusal(name: str, what: str, hint: str) -> Rejection:
    return Rejection(name=readable_name(name), code="source", what=what, hint=hint)


def _directory_rejections(path: Path, name: str, limits: Limits) -> list[Rejection]:
    prefix = name[: -len(path.name)]
    try:
        _, rejections = read_dicomdir(path, limits=limits)
    except ImageRejected as error:
        return [Rejection.of(readable_name(name), error)]
    except OSError as error:
        return [unreadable(name, error)]
    return [
        Rejection(name=prefix + one.name, code=one.code, what=one.what, hint=one.hint) for one in rejections
    ]
