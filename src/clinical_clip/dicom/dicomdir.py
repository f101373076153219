"""A DICOMDIR's references (PS3.3 F.3, PS3.10 8), resolved inside its own folder and nowhere else."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filereader import read_partial

from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.dicom.quiet import quiet
from clinical_clip.errors import CorruptImage, LimitExceeded
from clinical_clip.types import Rejection

__all__ = ["read_dicomdir"]

_MAX_COMPONENTS = 32
"""PS3.10 8.2 allows 8 components of 8 characters; writers are laxer."""


def read_dicomdir(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> tuple[list[Path], list[Rejection]]:
    """Files that the DICOMDIR at ``path`` references, in its order and once each, and what cannot be used.

    Names are compared without case and without a ``;1`` version, as media mounted elsewhere need it.

    Returns:
        The existing files, and a rejection for each reference that is missing or leaves the folder.

    Raises:
        CorruptImage: not a DICOMDIR.
        OSError: the file cannot be opened.
        LimitExceeded: larger than ``max_header_bytes``, or nested too deeply.
    """
    root = path.parent.resolve()
    files: dict[Path, None] = {}
    rejections: dict[str, Rejection] = {}
    for components in _references(path, limits):
        name = "/".join(components).encode("unicode_escape").decode()[:300]
        if not _safe(components):
            rejections[name] = _rejection(name, "a DICOMDIR reference that leaves its folder")
            continue
        found = _resolve(root, components)
        if found is None:
            rejections[name] = _rejection(name, "referenced by the DICOMDIR, but not there")
        elif not found.resolve().is_relative_to(root):
            rejections[name] = _rejection(name, "a DICOMDIR reference that leaves its folder")
        else:
            files[found] = None
    return list(files), list(rejections.values())


def _rejection(name: str, what: str) -> Rejection:
    return Rejection(name=name, code="source", what=what, hint="copy the whole medium again")


def _references(path: Path, limits: Limits) -> list[tuple[str, ...]]:
    with path.open("rb") as file:
        data = file.read(limits.max_header_bytes + 1)
    if len(data) > limits.max_header_bytes:
        raise LimitExceeded("a DICOMDIR that is too large", where=path.name, hint="give its folder")
    try:
        with quiet():
            dataset = read_partial(BytesIO(data), force=False, specific_tags=[0x00041220])
            records = dataset.get("DirectoryRecordSequence") or []
            return [reference for record in records if (reference := _reference(record))]
    except RecursionError:
        raise LimitExceeded("sequences nested too deeply", where=path.name, hint="give its folder") from None
    except Exception as error:
        raise CorruptImage(
            f"not a DICOMDIR ({type(error).__name__})", where=path.name, hint="give its folder instead"
        ) from None


def _reference(record: Dataset) -> tuple[str, ...]:
    value = record.get("ReferencedFileID")
    if not value:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(one) for one in value)


def _safe(components: tuple[str, ...]) -> bool:
    plain = all(one not in ("", ".", "..") and not set(one) & set("/\\\0:") for one in components)
    return plain and len(components) <= _MAX_COMPONENTS


def _resolve(root: Path, components: tuple[str, ...]) -> Path | None:
    at = root
    for component in components:
        direct = at / component
        if os.path.lexists(direct):
            at = direct
            continue
        wanted = component.casefold()
        try:
            names = sorted(os.listdir(at))
        except OSError:
            return None
        match = next((name for name in names if name.casefold().partition(";")[0] == wanted), None)
        if match is None:
            return None
        at = at / match
    return at if at.is_file() else None
