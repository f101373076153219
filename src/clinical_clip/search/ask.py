"""From image files and stored images to a query: files are read and encoded as the library's were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clinical_clip.data.source import open_source
from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.dicom.objects import ObjectPolicy
from clinical_clip.embed.encoder import Encoder
from clinical_clip.embed.prepare import prepare
from clinical_clip.errors import OptionError, QueryError
from clinical_clip.index import Library
from clinical_clip.search.query import Query
from clinical_clip.types import ImageRecord, Rejection

__all__ = ["Asked", "ask"]

_ANY_IMAGE = ObjectPolicy(localizers=True, screen_saves=True, rt_images=True, private_classes=True)
"""A query may be any image, also one that would not be indexed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A query, and the images that it stands on, in its order, for showing."""

    query: Query
    records: list[ImageRecord]


def ask(
    library: Library,
    *,
    names: Sequence[str] = (),
    files: Sequence[Path] = (),
    weights: Sequence[float] | None = None,
    encoder: Encoder | None = None,
    k: int = 10,
    where: Sequence[str] = (),
    group_by: Literal["study"] | None = None,
    exclude_self: bool = True,
    exclude_same_patient: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> Asked:
    """A query by stored images and by files.

    Args:
        names: image ids, SOP, series or study UIDs, or stored paths; a name of several images counts by
            all of them together.
        files: image files; ``path#frame`` picks one image of several, else all count together.
        weights: one for each name and then for each file.
        encoder: needed for files.
        k, where, group_by, exclude_self, exclude_same_patient: as in ``Query``.

    Raises:
        UnknownImageError: a name that is not stored.
        QueryError: a file that cannot be read; it says why.
        IndexMismatch: an encoder that the library was not made with.
    """
    given = [1.0] * (len(names) + len(files)) if weights is None else list(weights)
    if len(given) != len(names) + len(files):
        raise OptionError(
            f"{len(given)} weights for {len(names) + len(files)} query images",
            where="--weights",
            hint="give one for each --id, then one for each --image",
        )
    found = [(library.resolve(name), weight) for name, weight in zip(names, given, strict=False)]
    ids = [image_id for group, _ in found for image_id in group]
    shares = [weight / len(group) for group, weight in found for _ in group]
    read = [_read(path, limits) for path in files]
    records = [record for group in read for record in group]
    shares += [
        weight / len(group) for group, weight in zip(read, given[len(names) :], strict=True) for _ in group
    ]
    return Asked(
        query=Query(
            image_ids=ids,
            vectors=_encode(library, records, encoder, limits) if records else None,
            weights=shares,
            patients=[record.patient for record in records if record.patient],
            study_uids=[record.study_uid for record in records if record.study_uid],
            exclude_ids=[record.image_id for record in records] if exclude_self else [],
            k=k,
            where=where,
            group_by=group_by,
            exclude_self=exclude_self,
            exclude_same_patient=exclude_same_patient,
        ),
        records=[library.get(image_id) for image_id in ids] + records,
    )


def _read(path: Path, limits: Limits) -> list[ImageRecord]:
    stem, _, frame = str(path).rpartition("#")
    wanted = int(frame) if stem and frame.isdigit() and not path.exists() else None
    file = path if wanted is None else Path(stem)
    if not file.is_file():
        raise QueryError("no such image file", where=str(path), hint="check the path, or use --id")
    items = list(open_source(file, objects=_ANY_IMAGE, limits=limits))
    records = [item for item in items if isinstance(item, ImageRecord) and wanted in (None, item.frame)]
    if records:
        return records
    for item in items:
        if isinstance(item, Rejection):
            raise QueryError(f"cannot be a query: {item.what}", where=str(path), hint=item.hint)
    raise QueryError("no such frame in the file", where=str(path), hint="leave out #frame")


def _encode(
    library: Library, records: list[ImageRecord], encoder: Encoder | None, limits: Limits
) -> NDArray[np.float32]:
    if encoder is None:
        raise QueryError("an image file needs an encoder", where="query", hint="give --encoder")
    library.check_encoder(
        encoder_name=encoder.name,
        encoder_digest=encoder.digest,
        preprocessing_digest=encoder.preprocessing.digest,
    )
    pixels = [prepare(record, preprocessing=encoder.preprocessing, limits=limits) for record in records]
    return encoder.encode_images(np.stack(pixels))
