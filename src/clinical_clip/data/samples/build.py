"""Build the ``samples`` library: fetch, read, write, and a manifest last."""

from __future__ import annotations

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
from clinical_clip.data.samples.manifest import MANIFEST, listed_images, manifest_text, verify_samples
from clinical_clip.data.samples.table import Package, SampleRow, load_packages, load_table, table_digest
from clinical_clip.data.samples.volume import Volume, project, read_volume, slice_image
from clinical_clip.data.samples.write import sole_builder, write_whole
from clinical_clip.errors import FetchError, ManifestError, SourceError

__all__ = ["SamplesReport", "build_samples", "verify_samples"]

STAMP = "samples.json"
_RENDERER = 1  # raise when slices or projections of the same table come out differently


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
    if _is_built(out_dir, stamp):
        say(f"the samples are already built ({len(rows)} images)")
        return _report(out_dir, rows, already_built=True, fetched_bytes=0, start=start)
    with sole_builder(out_dir):
        cache_dir = cache_dir or out_dir / ".cache"
        before = _size(cache_dir.glob("*"))
        files = _fetch(rows, packages, cache_dir, say)
        fetched_bytes = max(0, _size(cache_dir.glob("*")) - before)
        _write_all(out_dir, rows, packages, files, stamp=stamp, say=say)
    report = _report(out_dir, rows, already_built=False, fetched_bytes=fetched_bytes, start=start)
    say(f"{report.images} images of {report.subjects} subjects in {report.seconds:.1f} s")
    return report


def _fetch(
    rows: Sequence[SampleRow], packages: Mapping[str, Package], cache_dir: Path, say: Callable[[str], None]
) -> dict[str, Path]:
    used = {row.package for row in rows}
    wanted = [p for p in packages.values() if p.name in used and p.kind in ("wheel", "sdist")]
    return fetch_packages(wanted, cache_dir, progress=say) if wanted else {}


def _write_all(
    out_dir: Path,
    rows: Sequence[SampleRow],
    packages: Mapping[str, Package],
    files: Mapping[str, Path],
    *,
    stamp: str,
    say: Callable[[str], None],
) -> None:
    """Write every image, then the manifest, then the stamp; last remove what the old manifest alone lists."""
    old = listed_images(out_dir) if _untouched(out_dir) else set()
    digests: dict[str, str] = {}
    for name, group in groupby(sorted(rows, key=lambda row: row.package), key=lambda row: row.package):
        of_package = list(group)
        say(f"reading {len(of_package)} images out of {name}")
        for image, data in _images(of_package, packages[name], files.get(name)):
            digests[image] = hashlib.sha256(data).hexdigest()
            write_whole(out_dir / image, data)
    manifest = manifest_text(rows, digests).encode()
    write_whole(out_dir / MANIFEST, manifest)
    write_whole(out_dir / STAMP, _stamp_text(stamp, hashlib.sha256(manifest).hexdigest()))
    for image in old - digests.keys():
        (out_dir / image).unlink(missing_ok=True)


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


def _stamp(rows: Sequence[SampleRow], packages: Mapping[str, Package]) -> str:
    """What a library is built from, as a digest."""
    return hashlib.sha256(f"{table_digest(rows, packages)} {_RENDERER}".encode()).hexdigest()


def _stamp_text(stamp: str, manifest_sha256: str) -> bytes:
    return (json.dumps({"built_from": stamp, "manifest_sha256": manifest_sha256}, indent=1) + "\n").encode()


def _is_built(out_dir: Path, stamp: str) -> bool:
    try:
        expected = _stamp_text(stamp, file_sha256(out_dir / MANIFEST))
        return (out_dir / STAMP).read_bytes() == expected and not verify_samples(out_dir)
    except (OSError, SourceError, ManifestError):
        return False


def _untouched(out_dir: Path) -> bool:
    """Whether the manifest there is the one that was written, so that the files it lists are ours."""
    try:
        return file_sha256(out_dir / MANIFEST) in (out_dir / STAMP).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


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
