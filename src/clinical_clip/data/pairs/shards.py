"""Pairs as WebDataset shards: tar files that are read from end to end, for training on many machines.

A sample is up to three members that share a key: ``00000042.jpg`` (or ``.png``, the image's bytes),
``00000042.txt`` (the caption, UTF-8) and ``00000042.json`` (id, split, concepts, licence and the rest).
``shards.json`` names the shards with their SHA-256; it grows shard by shard, so that a run that was stopped
goes on after the last whole one. The same pairs and seed give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clinical_clip.atomic import replace_file
from clinical_clip.data.files import open_regular
from clinical_clip.data.pairs.pair import Pair, PairSet
from clinical_clip.data.pairs.pixels import load_pair_pixels
from clinical_clip.data.samples.write import sole_builder
from clinical_clip.errors import ImageRejected, ManifestError, OptionError

__all__ = ["SHARDS_FILE", "ShardReport", "pair_metadata", "write_shards"]

SHARDS_FILE = "shards.json"
"""The manifest of a folder of shards."""

_FORMAT = 1
_AS_THEY_ARE = {b"\xff\xd8\xff": "jpg", b"\x89PN": "png"}
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardReport:
    """What a run wrote.

    Attributes:
        shards: shards in the folder.
        written: shards that this run wrote; the others were whole already.
        pairs: samples in them.
        left_out: pairs whose image could not be read, with the reason.
    """

    shards: int
    written: int
    pairs: int
    left_out: tuple[tuple[str, str], ...] = ()


def write_shards(
    pairs: PairSet,
    folder: Path,
    *,
    per_shard: int = 1000,
    seed: int = 42,
    progress: Callable[[int, int], None] | None = None,
) -> ShardReport:
    """Write ``pairs`` as tar shards below ``folder``, one folder a split, in a shuffled order.

    JPEG and PNG files go in byte for byte; everything else (DICOM, NIfTI, TIFF, ...) as an 8-bit PNG of the
    pixels that training would see. Shards that an earlier run of the same plan left whole are kept.

    Args:
        pairs: what to write; each needs its image.
        folder: where to; made where missing.
        per_shard: samples in a shard, at least 1; the last of a split has fewer.
        seed: of the order.
        progress: is told shards done and shards in all.

    Raises:
        OptionError: ``per_shard`` below 1.
        ManifestError: the folder holds shards of another plan.
        StoreError: the folder cannot be written to.
        SourceError: another run is at work there.
    """
    if per_shard < 1:
        raise OptionError("no samples in a shard", where="per_shard", hint="use 1 or more")
    plan = {
        "format": _FORMAT,
        "digest": pairs.digest,
        "seed": seed,
        "per_shard": per_shard,
        "name": pairs.name,
    }
    jobs = _jobs(pairs, per_shard, seed)
    with sole_builder(folder):
        done = _whole_shards(folder, plan)
        entries: dict[str, dict[str, Any]] = {}
        written = 0
        for number, (name, chosen) in enumerate(jobs, start=1):
            if name in done:
                entries[name] = done[name]
            else:
                entries[name] = _write_shard(folder / name, chosen)
                written += 1
                _write_manifest(folder, plan, {**done, **entries}, complete=False)
            if progress is not None:
                progress(number, len(jobs))
        _write_manifest(folder, plan, entries, complete=True)
    left_out = [tuple(one) for entry in entries.values() for one in entry["left_out"]]
    return ShardReport(
        shards=len(entries),
        written=written,
        pairs=sum(entry["pairs"] for entry in entries.values()),
        left_out=tuple((pair_id, why) for pair_id, why in left_out),
    )


def pair_metadata(pair: Pair) -> dict[str, Any]:
    """What ``.json`` says of a pair: everything but the caption and the image's place on this machine."""
    return {
        "pair_id": pair.pair_id,
        "image_id": pair.image_id,
        "article": pair.article,
        "split": pair.split,
        "cuis": list(pair.cuis),
        "semtypes": [list(one) for one in pair.semtypes],
        "keywords": list(pair.keywords),
        "licence": pair.licence,
        "labels": dict(pair.labels),
    }


def _jobs(pairs: PairSet, per_shard: int, seed: int) -> list[tuple[str, Sequence[tuple[int, Pair]]]]:
    """Names of the shards and what goes into them; keys number the pairs in the set's own order."""
    jobs: list[tuple[str, Sequence[tuple[int, Pair]]]] = []
    for split in pairs.splits:
        chosen = [(number, pair) for number, pair in enumerate(pairs) if pair.split == split]
        random.Random(f"{seed} {split}").shuffle(chosen)  # noqa: S311
        safe = "".join(one if one.isalnum() else "_" for one in split) or "all"
        for number, start in enumerate(range(0, len(chosen), per_shard)):
            jobs.append((f"{safe}/{safe}-{number:06d}.tar", chosen[start : start + per_shard]))
    return jobs


def _write_shard(path: Path, chosen: Sequence[tuple[int, Pair]]) -> dict[str, Any]:
    left_out: list[list[str]] = []
    with replace_file(path) as stream:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for number, pair in chosen:
                try:
                    suffix, data = _image_bytes(pair)
                except (ImageRejected, FileNotFoundError) as error:
                    why = error.what if isinstance(error, ImageRejected) else "no such file"
                    left_out.append([pair.pair_id, why])
                    continue
                key = f"{number:08d}"
                _add(tar, f"{key}.{suffix}", data)
                _add(tar, f"{key}.txt", pair.caption.encode())
                metadata = json.dumps(pair_metadata(pair), ensure_ascii=False, sort_keys=True)
                _add(tar, f"{key}.json", metadata.encode())
        size = stream.tell()
    return {
        "sha256": sha256_of(path),
        "bytes": size,
        "pairs": len(chosen) - len(left_out),
        "left_out": left_out,
    }


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _image_bytes(pair: Pair) -> tuple[str, bytes]:
    """Suffix and bytes: a JPEG's or PNG's own, else a PNG of the pixels. Decoded once in any case, so that
    no damaged file gets in.
    """
    pixels = load_pair_pixels(pair)
    if not pair.frame:
        with open_regular(pair.image) as file:
            head = file.read(3)
            if head in _AS_THEY_ARE:
                return _AS_THEY_ARE[head], head + file.read()
    import cv2

    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR).astype(np.uint8)
    return "png", cv2.imencode(".png", pixels)[1].tobytes()


def _write_manifest(
    folder: Path, plan: dict[str, Any], entries: dict[str, dict[str, Any]], *, complete: bool
) -> None:
    shards = [{"name": name, **entry} for name, entry in sorted(entries.items())]
    with replace_file(folder / SHARDS_FILE) as stream:
        stream.write(json.dumps({**plan, "complete": complete, "shards": shards}, indent=1).encode())


def _whole_shards(folder: Path, plan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Shards of the same plan whose bytes are as recorded."""
    path = folder / SHARDS_FILE
    if not path.is_file():
        return {}
    manifest = read_shards_manifest(folder)
    if any(manifest.get(key) != value for key, value in plan.items()):
        raise ManifestError(
            "shards of other pairs or options", where=str(path), hint="choose an empty folder"
        )
    whole = {}
    for entry in manifest["shards"]:
        shard = folder / entry["name"]
        if shard.is_file() and shard.stat().st_size == entry["bytes"] and sha256_of(shard) == entry["sha256"]:
            whole[entry["name"]] = {key: value for key, value in entry.items() if key != "name"}
    return whole


def read_shards_manifest(folder: Path) -> dict[str, Any]:
    """``shards.json``, checked for its form.

    Raises:
        ManifestError: missing, or not what :func:`write_shards` writes.
    """
    path = folder / SHARDS_FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT:
            raise ManifestError(
                f"shards of format {manifest['format']!r}", where=path.name, hint="write them again"
            )
        for entry in manifest["shards"]:
            inside = Path(entry["name"])
            if inside.is_absolute() or ".." in inside.parts or not isinstance(entry["bytes"], int):
                raise ValueError(entry["name"])
            str(entry["sha256"]), int(entry["pairs"]), list(entry["left_out"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"not a manifest of shards ({type(error).__name__})", where=str(path), hint="write them again"
        ) from None
    return dict(manifest)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def shard_names(path: Path) -> Iterator[Path]:
    """The shards of a folder with a manifest, in order; or the one tar file given."""
    if path.is_file() and path.suffix.lower() == ".tar":
        yield path
        return
    folder = path.parent if path.is_file() else path
    for entry in read_shards_manifest(folder)["shards"]:
        yield folder / entry["name"]
