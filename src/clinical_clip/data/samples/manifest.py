"""The manifest of a built library: written last, and what the library is checked against."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from clinical_clip.data.samples.archive import file_sha256
from clinical_clip.data.samples.table import SampleRow
from clinical_clip.errors import ManifestError, SourceError

__all__ = ["COLUMNS", "MANIFEST", "listed_images", "manifest_text", "verify_samples"]

MANIFEST = "manifest.csv"

COLUMNS = (
    *("image", "frame", "modality", "organ", "organ_group", "caption", "subject", "split_group"),
    *("source", "view", "window", "licence", "sha256", "package", "package_version", "member"),
)
"""Columns of the manifest that is written; ``split_group`` is the subject, ``source`` the package."""


def manifest_text(rows: Sequence[SampleRow], digests: Mapping[str, str]) -> str:
    """The manifest in CSV; ``digests`` are those of the written files, by path."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                "image": row.image,
                "frame": row.frame,
                "modality": row.modality,
                "organ": row.organ,
                "organ_group": row.organ_group,
                "caption": row.title,
                "subject": row.subject,
                "split_group": row.subject,
                "source": row.package,
                "view": row.axis,
                "window": row.window,
                "licence": row.licence,
                "sha256": digests[row.image],
                "package": row.package,
                "package_version": row.version,
                "member": row.member,
            }
        )
    return buffer.getvalue()


def _manifest_rows(out_dir: Path) -> list[dict[str, str]]:
    try:
        text = (out_dir / MANIFEST).read_text(encoding="utf-8")
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
        for row in rows:
            path = PurePosixPath(row["image"])
            if path.is_absolute() or ".." in path.parts:
                raise ManifestError("a path that leaves the library", where=MANIFEST, hint="build again")
            if not row["sha256"]:
                raise KeyError("sha256")
        if not rows:
            raise KeyError("image")
        return rows
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError):
        raise ManifestError(
            "not a manifest of samples", where=str(out_dir / MANIFEST), hint="delete it and build again"
        ) from None


def listed_images(out_dir: Path) -> set[str]:
    """Files that an earlier build wrote, as far as that can be told."""
    try:
        return {row["image"] for row in _manifest_rows(out_dir)} if (out_dir / MANIFEST).is_file() else set()
    except ManifestError:
        return set()


def verify_samples(out_dir: Path) -> tuple[str, ...]:
    """Problems of a built library, none where every file of its manifest is there with its digest.

    Raises:
        SourceError: there is no library in ``out_dir``.
        ManifestError: its manifest cannot be read.
    """
    if not (out_dir / MANIFEST).is_file():
        raise SourceError("no samples here", where=str(out_dir), hint="build them first")
    problems = []
    checked: set[str] = set()
    for row in _manifest_rows(out_dir):
        image = row["image"]
        if image in checked:
            continue
        checked.add(image)
        path = out_dir / image
        if not path.is_file():
            problems.append(f"{image}: missing")
        elif file_sha256(path) != row["sha256"]:
            problems.append(f"{image}: other bytes than the manifest says")
    return tuple(problems)
