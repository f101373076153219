"""Build the ``samples`` library: fetch, read, write, and a manifest last."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath

from clinical_clip.data.samples.archive import file_sha256, read_members
from clinical_clip.data.samples.fetch import fetch_packages
from clinical_clip.data.samples.table import Package, SampleRow, load_packages, load_table, table_digest
from clinical_clip.data.samples.volume import Volume, project, read_volume, slice_image
from clinical_clip.data.samples.write import write_whole
from clinical_clip.errors import FetchError, ManifestError, SourceError

__all__ = ["COLUMNS", "MANIFEST", "SamplesReport", "build_samples", "verify_samples"]

MANIFEST = "manifest.csv"
STAMP = "samples.json"
_RENDERER = 1  # raise when slices or projections of the same table come out differently

COLUMNS = (
    *("image", "frame", "modality", "organ", "organ_group", "caption", "subject", "split_group"),
    *("source", "view", "window", "licence", "sha256", "package", "package_version", "member"),
)
"""Columns of the manifest that is written; ``split_group`` is the subject, ``source`` the package."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplesReport:
    """What a build did and what the library holds."""

    out_dir: Path
    manifest: Path
    images: int
    subjects: int
    by_modality: Mapping[str, int]
    by_organ_group: Mapping[str, int]
    already_built: bool
    fetched_bytes: int
    library_bytes: int
    seconds: float


def build_samples(
    out_dir: Path,
    *,
    cache_dir: Path | None = None,
    progress: Callable[[str], None] | None = None,
    rows: Sequence[SampleRow] | None = None,
    packages: Mapping[str, Package] | None = None,
) -> SamplesReport:
    """Build the library in ``out_dir``; quick where it is already there.

    Every file appears whole or not at all, the manifest last, so a build that is killed is simply run again.
    DICOM files keep their bytes; slices and projections are 8-bit PNG.

    Args:
        out_dir: folder of the library, made where missing.
        cache_dir: keeps the fetched distributions; ``out_dir/.cache`` by default.
        progress: told a line for each step.
        rows: images to build; the reviewed table by default.
        packages: where they come from; the reviewed packages by default.

    Raises:
        FetchError: a distribution cannot be had, or is not the reviewed one.
        SourceError: ``out_dir`` cannot be written to.
    """
    start = time.monotonic()
    say = progress or (lambda _line: None)
    rows = load_table() if rows is None else tuple(rows)
    packages = load_packages() if packages is None else packages
    stamp = _stamp(rows, packages)
    if _read_stamp(out_dir) == stamp and not verify_samples(out_dir):
        say(f"the samples are already built ({len(rows)} images)")
        return _report(out_dir, rows, already_built=True, fetched_bytes=0, start=start)

    cache_dir = cache_dir or out_dir / ".cache"
    used = {row.package for row in rows}
    wanted = [p for p in packages.values() if p.name in used and p.kind in ("wheel", "sdist")]
    before = _size(cache_dir.glob("*"))
    tools = [p for p in packages.values() if p.kind == "build-tool"]
    files = fetch_packages(wanted, cache_dir, tools=tools, progress=say)
    fetched_bytes = max(0, _size(cache_dir.glob("*")) - before)

    old = _listed(out_dir)
    digests: dict[str, str] = {}
    for name, group in groupby(sorted(rows, key=lambda row: row.package), key=lambda row: row.package):
        of_package = list(group)
        say(f"reading {len(of_package)} images out of {name}")
        for image, data in _images(of_package, packages[name], files.get(name)):
            digests[image] = hashlib.sha256(data).hexdigest()
            write_whole(out_dir / image, data)
    write_whole(out_dir / MANIFEST, _manifest(rows, digests).encode())
    write_whole(out_dir / STAMP, stamp.encode())
    for image in old - digests.keys():
        (out_dir / image).unlink(missing_ok=True)
    report = _report(out_dir, rows, already_built=False, fetched_bytes=fetched_bytes, start=start)
    say(f"{report.images} images of {report.subjects} subjects in {report.seconds:.1f} s")
    return report


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


def _images(rows: Sequence[SampleRow], package: Package, archive: Path | None) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of every file that the rows of one package name."""
    members = _members(rows, package, archive)
    for member, group in groupby(sorted(rows, key=lambda row: row.member), key=lambda row: row.member):
        data = members.pop(member)
        volume: Volume | None = None
        done: set[str] = set()
        for row in group:
            if row.image in done:
                continue
            done.add(row.image)
            if row.kind == "dicom":
                yield row.image, data
            else:
                volume = volume or read_volume(data, member)
                yield row.image, _picture(volume, row)


def _members(rows: Sequence[SampleRow], package: Package, archive: Path | None) -> dict[str, bytes]:
    wanted = {row.member: row.sha256 for row in rows}
    if archive is not None:
        return read_members(archive, wanted)
    return _installed(package, wanted)


def _installed(package: Package, wanted: Mapping[str, str]) -> dict[str, bytes]:
    """Members of a package that is installed here, read where it is (found, not imported)."""
    from importlib.util import find_spec

    spec = find_spec(package.name)
    if spec is None or spec.origin is None:
        raise FetchError(
            "the package is not installed", where=package.name, hint=f"pip install {package.name}"
        )
    root = Path(spec.origin).parent.parent
    found = {}
    for name, digest in wanted.items():
        path = root / name
        if not path.is_file() or file_sha256(path) != digest:
            raise FetchError(
                "the installed package lacks a file, or has another version of it",
                where=f"{package.name}: {PurePosixPath(name).name}",
                hint=f"pip install '{package.name}=={package.version}.*'",
            )
        found[name] = path.read_bytes()
    return found


def _picture(volume: Volume, row: SampleRow) -> bytes:
    from PIL import Image

    if row.kind == "projection":
        pixels_HW = project(volume, row.axis)
    else:
        pixels_HW = slice_image(volume, row.axis, int(row.index), row.window)
    buffer = io.BytesIO()
    Image.fromarray(pixels_HW).save(buffer, format="PNG", optimize=False, compress_level=6)
    return buffer.getvalue()


def _manifest(rows: Sequence[SampleRow], digests: Mapping[str, str]) -> str:
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
        return rows if all(row["sha256"] for row in rows) else []
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError):
        raise ManifestError(
            "not a manifest of samples", where=str(out_dir / MANIFEST), hint="delete it and build again"
        ) from None


def _listed(out_dir: Path) -> set[str]:
    """Files that an earlier build wrote, as far as that can be told."""
    try:
        return {row["image"] for row in _manifest_rows(out_dir)} if (out_dir / MANIFEST).is_file() else set()
    except ManifestError:
        return set()


def _stamp(rows: Sequence[SampleRow], packages: Mapping[str, Package]) -> str:
    identity = table_digest(rows, packages)
    return json.dumps({"table": identity, "renderer": _RENDERER, "images": len(rows)}, indent=1) + "\n"


def _read_stamp(out_dir: Path) -> str:
    try:
        return (out_dir / STAMP).read_text(encoding="utf-8") if (out_dir / MANIFEST).is_file() else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def _report(
    out_dir: Path, rows: Sequence[SampleRow], *, already_built: bool, fetched_bytes: int, start: float
) -> SamplesReport:
    return SamplesReport(
        out_dir=out_dir,
        manifest=out_dir / MANIFEST,
        images=len(rows),
        subjects=len({row.subject for row in rows}),
        by_modality=dict(Counter(row.modality or "unknown" for row in rows).most_common()),
        by_organ_group=dict(Counter(row.organ_group or "unknown" for row in rows).most_common()),
        already_built=already_built,
        fetched_bytes=fetched_bytes,
        library_bytes=_size(out_dir / image for image in {row.image for row in rows}),
        seconds=time.monotonic() - start,
    )
