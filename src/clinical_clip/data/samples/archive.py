"""Members of wheels and sdists, read by name. Nothing is ever extracted to disk from here."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from clinical_clip.errors import FetchError

__all__ = ["MEMBER_LIMIT_BYTES", "file_sha256", "read_members"]

MEMBER_LIMIT_BYTES = 64 * 2**20
"""No member that the library uses is larger; a larger one is not read."""

_CHUNK = 2**20


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_members(
    archive: Path, wanted: Mapping[str, str], *, limit_bytes: int = MEMBER_LIMIT_BYTES
) -> dict[str, bytes]:
    """Bytes of the members named in ``wanted``, whose values are their SHA-256 digests.

    Names are compared with the archive's own list, so a member that is not asked for, whatever its name, is
    never touched. Links and other things that are no regular files do not count as members.

    Args:
        archive: a ``.whl`` (ZIP) or ``.tar.gz`` file.
        wanted: digest by member name.
        limit_bytes: no member may be larger when decompressed.

    Raises:
        FetchError: no archive, a missing or too large member, or one with another digest.
    """
    try:
        read = _read_zip if archive.name.endswith((".whl", ".zip")) else _read_tar
        found = read(archive, wanted, limit_bytes)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError, RuntimeError) as error:
        raise FetchError(
            f"cannot be read as an archive ({type(error).__name__})",
            where=archive.name,
            hint="delete the file and run again",
        ) from None
    for name, digest in wanted.items():
        if name not in found:
            raise FetchError("the distribution lacks a member", where=f"{archive.name}: {name}", hint=_REPORT)
        if hashlib.sha256(found[name]).hexdigest() != digest:
            raise FetchError("a member has another digest", where=f"{archive.name}: {name}", hint=_REPORT)
    return found


_REPORT = "the sample table does not fit this distribution; update clinical-clip"


def _read_zip(archive: Path, wanted: Mapping[str, str], limit_bytes: int) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        infos = [info for info in opened.infolist() if info.filename in wanted and not info.is_dir()]
        found = {}
        for info in infos:
            with opened.open(info) as file:
                found[info.filename] = _bounded(file, info.filename, limit_bytes)
        return found


def _read_tar(archive: Path, wanted: Mapping[str, str], limit_bytes: int) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(archive, "r:gz") as opened:
        for info in opened:
            if info.name not in wanted or not info.isreg():
                continue
            file = opened.extractfile(info)
            if file is not None:
                found[info.name] = _bounded(file, info.name, limit_bytes)
            if len(found) == len(wanted):
                break
    return found


def _bounded(file: IO[bytes], name: str, limit_bytes: int) -> bytes:
    data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise FetchError("a member is larger than allowed", where=name, hint=f"at most {limit_bytes} bytes")
    return data
