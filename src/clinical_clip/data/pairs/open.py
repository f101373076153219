"""One way to open every kind of data set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from clinical_clip.data.pairs.detect import KINDS, detect_kind, find_tables
from clinical_clip.data.pairs.manifest import DEFAULT_PAIR_COLUMNS, PairColumns, read_manifest_pairs
from clinical_clip.data.pairs.pair import Pair, PairSet, RowProblem, split_name
from clinical_clip.data.pairs.roco import find_roco, read_roco
from clinical_clip.data.pairs.split import read_splits
from clinical_clip.errors import ManifestError, OptionError

__all__ = ["open_pairs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    path: Path
    split: str | None
    images: Path | None
    group: str
    columns: PairColumns
    synthetic: bool
    problems: list[RowProblem]
    new_splits: dict[str, str] | None = None

    @property
    def own_split(self) -> str | None:
        """The one split of the data set that need be read, where there is one."""
        return None if self.new_splits is not None else self.split


def open_pairs(
    path: Path,
    *,
    kind: str = "auto",
    split: str | None = None,
    splits: Path | None = None,
    images: Path | None = None,
    group: str = "radiology",
    columns: PairColumns = DEFAULT_PAIR_COLUMNS,
    synthetic: bool = False,
    require_images: bool = True,
    require_captions: bool = True,
) -> PairSet:
    """Open a data set of image-caption pairs.

    Args:
        path: ROCO or ROCOv2 as published, their Parquet copies, CheXpert, ConVIRT's CheXpert 8x200,
            shards, or a manifest (table, or a folder that holds one).
        kind: one of :data:`~clinical_clip.data.pairs.detect.KINDS`, or ``auto``.
        split: keep this split alone (``val``, ``valid`` and ``validation`` are one).
        splits: a file of ``data split`` (pair_id, split) that replaces the data set's own splits; pairs that
            are not in it are left out.
        images: folder of the images, where it is not the data set's own. For Parquet and shards: where the
            images are unpacked to.
        group: ROCO's ``radiology``, ``non-radiology`` or ``all``.
        columns: which columns of a manifest are what.
        synthetic: take captions that a program made from labels, where there are no others, and mark them.
        require_images: leave out pairs whose image is not found. They stand in ``missing`` in any case.
        require_captions: leave out images without a caption, and count them.

    Raises:
        ManifestError: nothing usable there, with file and line where one is to blame. A single bad row is
            not an error: it stands in ``problems``.
        OptionError: an unknown kind or group.
        MissingDependency: Parquet without pyarrow.
    """
    path = Path(path)
    if kind == "auto":
        kind = detect_kind(path)
    if kind not in KINDS:
        raise OptionError(f"no kind {kind!r}", where="kind", hint=f"use auto, {', '.join(KINDS)}")
    if group not in ("radiology", "non-radiology", "all"):
        raise OptionError(f"no group {group!r}", where="group", hint="use radiology, non-radiology or all")
    if images is not None and not images.is_dir() and kind not in ("parquet", "shards"):
        raise ManifestError("no such image folder", where=str(images), hint="check the path")
    if synthetic and "label_text" not in columns.text:
        columns = replace(columns, text=(*columns.text, "label_text"))
    request = _Request(
        path=path,
        split=None if split is None else split_name(split),
        new_splits=None if splits is None else read_splits(splits),
        images=images,
        group=group,
        columns=columns,
        synthetic=synthetic,
        problems=[],
    )
    name, pairs = _READERS[kind](request)
    return _collect(name, pairs, request, require_images=require_images, require_captions=require_captions)


def _collect(
    name: str, pairs: Iterable[Pair], request: _Request, *, require_images: bool, require_captions: bool
) -> PairSet:
    kept: list[Pair] = []
    missing: list[str] = []
    uncaptioned = n_rows = 0
    for pair in pairs:
        if request.new_splits is not None:
            pair = replace(pair, split=request.new_splits.get(pair.pair_id, ""))  # noqa: PLW2901
            if not pair.split:
                continue
        if request.split is not None and pair.split != request.split:
            continue
        n_rows += 1
        if require_captions and not pair.caption:
            uncaptioned += 1
            continue
        if not pair.has_image:
            missing.append(pair.pair_id)
            if require_images:
                continue
        kept.append(pair)
    if not kept:
        raise _nothing(name, request, n_rows=n_rows, missing=len(missing), uncaptioned=uncaptioned)
    if request.split is not None:
        name = f"{name} {request.split}"
    return PairSet(
        name=name,
        pairs=tuple(kept),
        missing=tuple(missing),
        problems=tuple(request.problems),
        uncaptioned=uncaptioned,
    )


def _nothing(name: str, request: _Request, *, n_rows: int, missing: int, uncaptioned: int) -> ManifestError:
    where = f"{name}, {request.path.name}"
    if not n_rows:
        what = "no pairs" if request.split is None else f"no pairs in split {request.split!r}"
        bad = (
            f"; the first of {len(request.problems)} problems: {request.problems[0]}"
            if request.problems
            else ""
        )
        return ManifestError(what + bad, where=where, hint="check the path and the split")
    if missing:
        return ManifestError(
            f"none of the {missing:,} captioned images is there",
            where=where,
            hint="give their folder with --images; `data check` lists what is missing",
        )
    return ManifestError(
        f"none of the {uncaptioned:,} images has a caption",
        where=where,
        hint="name another text column, or allow captions made from labels (they are marked as synthetic)",
    )


def _open_roco(request: _Request) -> tuple[str, Iterable[Pair]]:
    found = [
        one for one in find_roco(request.path) if request.group == "all" or one.group in ("", request.group)
    ]
    if request.own_split is not None:
        found = [one for one in found if one.split == request.own_split] or found
    if not found:
        raise ManifestError(
            "no captions file of ROCO",
            where=request.path.name,
            hint="give a clone of the ROCO repository, its data folder, or files named test.captions.txt",
        )
    pairs = (
        pair for one in found for pair in read_roco(one, images=request.images, problems=request.problems)
    )
    return "ROCO", pairs


def _open_manifest(request: _Request) -> tuple[str, Iterable[Pair]]:
    table = request.path
    if table.is_dir():
        tables = find_tables(table)
        if not tables:
            raise ManifestError("no table", where=str(table), hint="give the table itself")
        table = tables[0]
    pairs = read_manifest_pairs(
        table, images=request.images, columns=request.columns, problems=request.problems
    )
    return table.stem if table.stem.lower() != "manifest" else f"manifest {table.parent.name}", pairs


def _open_rocov2(request: _Request) -> tuple[str, Iterable[Pair]]:
    from clinical_clip.data.pairs.rocov2 import read_rocov2

    return "ROCOv2", read_rocov2(request.path, images=request.images, problems=request.problems)


def _open_parquet(request: _Request) -> tuple[str, Iterable[Pair]]:
    from clinical_clip.data.pairs.parquet import read_parquet_pairs

    pairs = read_parquet_pairs(
        request.path, cache=request.images, split=request.own_split, problems=request.problems
    )
    return f"Parquet {request.path.stem}", pairs


def _open_chexpert(request: _Request) -> tuple[str, Iterable[Pair]]:
    from clinical_clip.data.pairs.chexpert import read_chexpert

    pairs = read_chexpert(
        request.path, images=request.images, synthetic=request.synthetic, problems=request.problems
    )
    return "CheXpert", pairs


def _open_8x200(request: _Request) -> tuple[str, Iterable[Pair]]:
    from clinical_clip.data.pairs.chexpert_8x200 import read_8x200

    return "CheXpert 8x200", read_8x200(request.path, images=request.images, problems=request.problems)


def _open_shards(request: _Request) -> tuple[str, Iterable[Pair]]:
    from clinical_clip.data.pairs.read_shards import unpack_shards

    pairs = unpack_shards(request.path, folder=request.images, problems=request.problems)
    return f"shards {request.path.name}", pairs


_READERS = {
    "roco": _open_roco,
    "rocov2": _open_rocov2,
    "parquet": _open_parquet,
    "chexpert": _open_chexpert,
    "chexpert-8x200": _open_8x200,
    "shards": _open_shards,
    "manifest": _open_manifest,
}
