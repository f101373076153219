"""Samples out of WebDataset shards, of our own or of anyone's."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clinical_clip.data.pairs.pair import SPLITS, Pair, RowProblem, split_name
from clinical_clip.data.pairs.shards import read_shards_manifest, sha256_of, shard_names
from clinical_clip.data.pairs.store import ImageStore, default_store_folder
from clinical_clip.errors import ImageRejected, ManifestError

__all__ = ["ShardSample", "read_shard", "unpack_shards", "verify_shards"]

_IMAGES = ("jpg", "jpeg", "png", "webp")
_MAX_MEMBER = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSample:
    """A pair whose image is in memory; ``pair.image`` is empty."""

    pair: Pair
    image: bytes


def read_shard(
    path: Path, *, split: str = "", problems: list[RowProblem] | None = None
) -> Iterator[ShardSample]:
    """The samples of one tar file, in order.

    Args:
        path: of the shard.
        split: the split of samples that name none.
        problems: samples without an image or with unreadable metadata are added here and passed over;
            where None, the first one is an error.

    Raises:
        ManifestError: a damaged shard or sample, naming the shard and the sample's key.
    """
    for key, members in _samples(path):
        try:
            yield _sample(key, members, path, split)
        except ManifestError as error:
            if problems is None:
                raise
            problems.append(RowProblem(where=error.where, what=error.what))


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Keys and the members that share them, by suffix."""
    key, members = "", dict[str, bytes]()
    try:
        with tarfile.open(path, mode="r:") as tar:
            for member in tar:
                own, _, suffix = member.name.rpartition("/")[2].partition(".")
                if not member.isfile() or not own or not suffix:
                    continue
                if member.size > _MAX_MEMBER:
                    raise ManifestError("a member that is too large", where=path.name, hint="split it")
                if own != key and members:
                    yield key, members
                    members = {}
                key = own
                stream = tar.extractfile(member)
                members[suffix.lower()] = stream.read() if stream is not None else b""
            if members:
                yield key, members
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ManifestError(
            f"a damaged shard ({type(error).__name__})",
            where=path.name,
            hint="write or fetch this shard again",
        ) from None


def unpack_shards(path: Path, *, folder: Path | None, problems: list[RowProblem]) -> Iterator[Pair]:
    """The pairs of a folder of shards, their images unpacked to ``folder`` (a cache where None).

    Raises:
        ManifestError: no manifest, or a damaged shard.
        StoreError: the images cannot be written.
    """
    store = ImageStore(folder if folder is not None else default_store_folder())
    seen: set[str] = set()
    for shard in shard_names(path):
        for sample in read_shard(shard, split=_split_of(shard), problems=problems):
            where = f"{shard.name}, {sample.pair.pair_id[:60]}"
            if sample.pair.pair_id in seen:
                problems.append(RowProblem(where=where, what="an id given before"))
                continue
            seen.add(sample.pair.pair_id)
            try:
                yield replace(sample.pair, image=store.put(sample.image))
            except ImageRejected as error:
                problems.append(RowProblem(where=where, what=error.what))
                yield sample.pair


def verify_shards(folder: Path) -> list[str]:
    """What is wrong with the shards of a folder: missing, of another size or digest, or not complete.

    Raises:
        ManifestError: no manifest.
    """
    manifest = read_shards_manifest(folder)
    wrong = [] if manifest.get("complete") else [f"{folder.name}: the run that wrote it has not ended"]
    for entry in manifest["shards"]:
        shard = folder / entry["name"]
        if not shard.is_file():
            wrong.append(f"{entry['name']}: missing")
        elif shard.stat().st_size != entry["bytes"] or sha256_of(shard) != entry["sha256"]:
            wrong.append(f"{entry['name']}: not the bytes that were written")
    return wrong


def _split_of(shard: Path) -> str:
    name = split_name(shard.stem.rpartition("-")[0])
    return name if name in SPLITS else ""


def _sample(key: str, members: dict[str, bytes], path: Path, split: str) -> ShardSample:
    where = f"{path.name}, {key[:60]}"
    image = next((members[suffix] for suffix in _IMAGES if suffix in members), None)
    if image is None:
        raise ManifestError("a sample without an image", where=where, hint="write the shard again")
    try:
        metadata = json.loads(members.get("json", b"{}"))
        caption = (members.get("txt") or members.get("caption") or b"").decode()
        pair = _pair(key, path, caption, metadata if isinstance(metadata, dict) else {}, split)
    except (ValueError, TypeError) as error:
        raise ManifestError(
            f"unreadable metadata ({type(error).__name__})", where=where, hint="write the shard again"
        ) from None
    return ShardSample(pair=pair, image=image)


def _pair(key: str, path: Path, caption: str, metadata: dict[str, Any], split: str) -> Pair:
    return Pair(
        pair_id=str(metadata.get("pair_id") or f"{path.stem}/{key}"),
        image=Path(),
        caption=" ".join(caption.split()),
        image_id=str(metadata.get("image_id", "")),
        article=str(metadata.get("article", "")),
        split=str(metadata.get("split", split)),
        cuis=tuple(map(str, metadata.get("cuis", ()))),
        semtypes=tuple((str(code), str(name)) for code, name in metadata.get("semtypes", ())),
        keywords=tuple(map(str, metadata.get("keywords", ()))),
        licence=str(metadata.get("licence", "")),
        labels={str(name): str(text) for name, text in dict(metadata.get("labels", {})).items()},
    )
