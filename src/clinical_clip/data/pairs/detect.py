"""What kind of data set a path holds, told by its files."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from clinical_clip.data.pairs.roco import find_roco
from clinical_clip.errors import ManifestError

__all__ = ["KINDS", "Kind", "chexpert_tables", "detect_kind", "find_tables", "parquet_files"]

Kind = Literal["roco", "rocov2", "parquet", "chexpert", "chexpert-8x200", "shards", "manifest"]
"""The kinds of data set that are read."""

KINDS: tuple[Kind, ...] = get_args(Kind)

_TABLES = {".csv", ".tsv", ".tab", ".parquet"}


def detect_kind(path: Path) -> Kind:
    """The kind of data set at ``path``.

    Raises:
        ManifestError: nothing there, or nothing that is known.
    """
    if path.is_file():
        return _kind_of_file(path)
    if not path.is_dir():
        raise ManifestError("no such file or folder", where=str(path), hint="check the path")
    for kind, holds in _SIGNS.items():
        if holds(path):
            return kind
    if find_tables(path):
        return "manifest"
    raise ManifestError(
        "no data set of a known kind",
        where=str(path),
        hint="give a folder of ROCO, ROCOv2, CheXpert, Parquet files or shards, or a table with the columns "
        "image and caption",
    )


def parquet_files(path: Path) -> list[Path]:
    """The Parquet files of a data set copied from a hub: the file itself, or those in the folder, its
    ``data`` folder or a configuration's folder, in the order of their names.
    """
    if path.is_file():
        return [path]
    found = [*path.glob("*.parquet"), *path.glob("*/*.parquet"), *path.glob("data/*/*.parquet")]
    return sorted(found, key=lambda one: one.relative_to(path).as_posix())


def chexpert_tables(path: Path) -> list[Path]:
    """CheXpert's label tables: the file itself, or those of its splits and of CheXpert Plus in the folder."""
    if path.is_file():
        return [path]
    named = [path / f"{split}.csv" for split in ("train", "valid", "test")]
    return [one for one in named if one.is_file()] + sorted(path.glob("df_chexpert_plus*.csv"))


def find_tables(folder: Path) -> list[Path]:
    """The one table a folder is a manifest by: ``manifest.*``, or its only table."""
    tables = sorted(one for one in folder.iterdir() if one.suffix.lower() in _TABLES and one.is_file())
    named = [one for one in tables if one.stem.lower() == "manifest"]
    return named[:1] or (tables if len(tables) == 1 else [])


def _is_manifest_by_name(folder: Path) -> bool:
    tables = find_tables(folder)
    return bool(tables) and tables[0].stem.lower() == "manifest"


def _kind_of_file(path: Path) -> Kind:
    suffix = path.suffix.lower()
    if suffix == ".tar" or path.name == "shards.json":
        return "shards"
    if suffix == ".parquet":
        from clinical_clip.data.pairs.parquet import holds_pixels

        return "parquet" if holds_pixels(path) else "manifest"
    if suffix in _TABLES:
        return "chexpert" if _is_chexpert(path) else "manifest"
    raise ManifestError(
        "not a table", where=path.name, hint="give a folder, or a table as .csv, .tsv or .parquet"
    )


def _is_chexpert(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader([file.readline(1 << 16)]), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return ("Path" in names and "Pleural Effusion" in names) or "path_to_image" in names


_SIGNS: dict[Kind, Callable[[Path], bool]] = {
    "shards": lambda folder: (folder / "shards.json").is_file(),
    "rocov2": lambda folder: any(folder.glob("*_captions.csv")),
    "chexpert-8x200": lambda folder: (folder / "image-retrieval" / "candidate.csv").is_file(),
    "roco": lambda folder: bool(find_roco(folder)),
    "chexpert": lambda folder: any(map(_is_chexpert, chexpert_tables(folder))),
    "manifest": _is_manifest_by_name,
    "parquet": lambda folder: bool(parquet_files(folder)),
}
