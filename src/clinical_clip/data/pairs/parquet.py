"""Data sets as Parquet files with the images inside, as the Hugging Face hub keeps them.

An image is a binary column, or a struct of ``bytes`` and ``path``. It is unpacked once into a folder, named
by its content; a table of names beside it spares the next opening from reading the pixels at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinical_clip.atomic import replace_file
from clinical_clip.data.pairs.detect import parquet_files
from clinical_clip.data.pairs.images import ImageFinder, UnsafePath
from clinical_clip.data.pairs.pair import SPLITS, Pair, RowProblem, split_name
from clinical_clip.data.pairs.store import ImageStore, default_store_folder
from clinical_clip.data.table import open_parquet
from clinical_clip.errors import ImageRejected, ManifestError

__all__ = ["holds_pixels", "read_parquet_pairs"]

_IMAGES = ("image", "img", "picture", "jpg", "png")
_CAPTIONS = ("caption", "text", "captions", "report", "sentence")
_IDS = ("image_id", "id", "ID", "name", "file_name", "key")
_CUIS = ("cui", "cuis", "CUIs", "concepts")
_GROUPS = ("pmcid", "PMCID", "pmc_id", "article", "patient_id", "subject_id", "study_id")
_LICENCES = ("licence", "license")
_BATCH = 64


def holds_pixels(path: Path) -> bool:
    """Whether a Parquet file has a column of image bytes.

    Raises:
        ManifestError: not a Parquet file.
        MissingDependency: pyarrow is not installed.
    """
    return _image_column(open_parquet(path).schema_arrow) is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Columns:
    image: str
    caption: str
    pair_id: str
    cuis: str
    group: str
    licence: str
    plain: tuple[str, ...]

    @property
    def texts(self) -> list[str]:
        named = (self.caption, self.pair_id, self.cuis, self.group, self.licence)
        return list(dict.fromkeys([*(one for one in named if one), *self.plain]))


def read_parquet_pairs(
    path: Path, *, cache: Path | None, split: str | None, problems: list[RowProblem]
) -> Iterator[Pair]:
    """The pairs of a Parquet file or of a folder of them, in the order of splits, files and rows.

    Args:
        path: a file, or a folder such as a copy of a hub's data set.
        cache: where images are unpacked to; below the user's cache folder where None.
        split: files whose name says another split are passed over.
        problems: rows that cannot be used are added here.

    Raises:
        ManifestError: no image or no caption column, or damaged Parquet.
        MissingDependency: pyarrow is not installed.
        StoreError: the cache cannot be written to.
    """
    store = ImageStore(cache if cache is not None else default_store_folder())
    seen: set[str] = set()
    order = {name: number for number, name in enumerate(SPLITS)}
    for file in sorted(parquet_files(path), key=lambda one: order.get(_split_of(one), len(order))):
        own = _split_of(file)
        if split is not None and own and own != split:
            continue
        for pair in _read_file(file, own, store, problems):
            if pair.pair_id in seen:
                problems.append(RowProblem(where=file.name, what=f"{pair.pair_id[:60]}: an id given before"))
            else:
                seen.add(pair.pair_id)
                yield pair


def _read_file(file: Path, split: str, store: ImageStore, problems: list[RowProblem]) -> Iterator[Pair]:
    table = open_parquet(file)
    columns = _columns(table.schema_arrow, file)
    names = _unpacked(file, table, columns, store, problems)
    finder = ImageFinder(file.parent)
    number = 0
    for batch in _batches(table, columns.texts, file):
        for cells in batch.to_pylist():
            name = names[number]
            number += 1
            yield _pair(
                cells,
                columns,
                image=_where(name, store, finder),
                split=split or _text(cells, "split"),
                row_name=f"{file.stem}#{number}",
            )


def _pair(cells: dict[str, Any], columns: _Columns, *, image: Path, split: str, row_name: str) -> Pair:
    pair_id = _text(cells, columns.pair_id) or row_name
    values = cells.get(columns.cuis)
    cuis = values if isinstance(values, list) else _text(cells, columns.cuis).replace(",", ";").split(";")
    return Pair(
        pair_id=pair_id,
        image=image,
        caption=" ".join(_text(cells, columns.caption).split()),
        image_id=pair_id,
        article=_text(cells, columns.group),
        split=split_name(split),
        cuis=tuple(dict.fromkeys(str(one).strip() for one in cuis if str(one).strip())),
        licence=_text(cells, columns.licence),
        labels={name: text for name in columns.plain if (text := _text(cells, name))},
    )


def _text(cells: dict[str, Any], name: str) -> str:
    value = cells.get(name)
    if isinstance(value, list):
        return " ".join(str(one) for one in value)
    return "" if value is None else str(value).strip()


def _where(name: str, store: ImageStore, finder: ImageFinder) -> Path:
    """The path of an unpacked image, or of one that the table only names."""
    if not name.startswith("path:"):
        return store.path(name) if name else Path()
    try:
        return finder.find([name.removeprefix("path:")], folders=("", "images")) or Path()
    except UnsafePath:
        return Path()


def _unpacked(
    file: Path, table: Any, columns: _Columns, store: ImageStore, problems: list[RowProblem]
) -> list[str]:
    """The store's name of each row's image, from the table of an earlier opening where it still holds."""
    index = store.folder / "tables" / f"{_identity(file)}.json"
    if index.is_file():
        try:
            names = json.loads(index.read_text(encoding="utf-8"))
        except ValueError:
            names = None
        if _holds(names, table.metadata.num_rows, store):
            return list(names)
    names, number = [], 0
    for batch in _batches(table, [columns.image], file):
        for value in batch.column(0).to_pylist():
            number += 1
            names.append(_put(value, store, f"{file.name}, row {number}", problems))
    with replace_file(index) as stream:
        stream.write(json.dumps(names).encode())
    return names


def _holds(names: object, n_rows: int, store: ImageStore) -> bool:
    if not isinstance(names, list) or len(names) != n_rows:
        return False
    return all(not one or one.startswith("path:") or store.path(one).is_file() for one in names)


def _put(value: Any, store: ImageStore, where: str, problems: list[RowProblem]) -> str:
    path = ""
    if isinstance(value, dict):
        path, value = value.get("path") or "", value.get("bytes")
    if not value:
        if not path:
            problems.append(RowProblem(where=where, what="no image"))
        return f"path:{path}" if path else ""
    try:
        return store.put(value).name
    except ImageRejected as error:
        problems.append(RowProblem(where=where, what=error.what))
        return ""


def _identity(file: Path) -> str:
    """A name for what the file holds now: its footer (schema, offsets, statistics), size and time."""
    state = file.stat()
    with file.open("rb") as stream:
        stream.seek(-8, 2)
        footer_bytes = int.from_bytes(stream.read(4), "little")
        stream.seek(-min(state.st_size, footer_bytes + 8), 2)
        footer = stream.read()
    return hashlib.sha256(footer + f"{state.st_size} {state.st_mtime_ns}".encode()).hexdigest()


def _columns(schema: Any, file: Path) -> _Columns:
    import pyarrow as pa

    image = _image_column(schema)
    names = set(schema.names)

    def first(wanted: tuple[str, ...]) -> str:
        return next((one for one in wanted if one in names and one != image), "")

    caption = first(_CAPTIONS)
    if image is None or not caption:
        lacking = "image bytes" if image is None else "captions"
        raise ManifestError(
            f"no column of {lacking}", where=file.name, hint=f"there are: {', '.join(schema.names[:15])}"
        )
    used = {image, caption, *_IDS, *_CUIS, *_GROUPS, *_LICENCES, *_CAPTIONS}
    plain = [one.name for one in schema if one.name not in used and not _is_deep(pa, one.type)]
    return _Columns(
        image=image,
        caption=caption,
        pair_id=first(_IDS),
        cuis=first(_CUIS),
        group=first(_GROUPS),
        licence=first(_LICENCES),
        plain=tuple(plain),
    )


def _is_deep(pa: Any, kind: Any) -> bool:
    return bool(pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _image_column(schema: Any) -> str | None:
    import pyarrow as pa

    def has_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    found = [one.name for one in schema if has_bytes(one.type)]
    return next((name for name in _IMAGES if name in found), found[0] if found else None)


def _split_of(file: Path) -> str:
    """``train`` of ``train-00000-of-00010.parquet``, or of ``train/0000.parquet``."""
    for word in (file.stem.split("-")[0].split("_")[0], file.parent.name):
        if split_name(word) in SPLITS:
            return split_name(word)
    return ""


def _batches(table: Any, columns: list[str], file: Path) -> Iterator[Any]:
    import pyarrow as pa

    try:
        yield from table.iter_batches(batch_size=_BATCH, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(
            f"damaged Parquet ({type(error).__name__})", where=file.name, hint="fetch it again"
        ) from None
