"""The whole evaluation of a manifest: rows, vectors, floors, scores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from clinical_clip import __version__
from clinical_clip.errors import EvaluationError, OptionError
from clinical_clip.evaluate.methods import (
    Baselines,
    Measured,
    Progress,
    encode,
    pixel_floor,
    random_floor,
    stored,
)
from clinical_clip.evaluate.protocol import DEFAULT_GROUP, Protocol
from clinical_clip.evaluate.results import Evaluation
from clinical_clip.evaluate.run import evaluate_table
from clinical_clip.evaluate.table import Table, parse_conditions
from clinical_clip.evaluate.vectors import save_vectors
from clinical_clip.types import FieldValue, ImageRecord, Rejection

__all__ = ["evaluate_manifest", "evaluate_records"]

PATIENT, STUDY = "patient", "study"


def evaluate_manifest(
    manifest: Path,
    protocol: Protocol,
    *,
    image_root: Path | None = None,
    encoder: str = "imagenet-lite0",
    vectors: Path | None = None,
    baselines: Baselines | None = None,
    rows: Sequence[str] = (),
    queries: Sequence[str] = (),
    save_vectors_to: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure retrieval over the images that a manifest lists.

    Args:
        manifest: CSV or Parquet file with a path and label columns for every image.
        protocol: what is measured.
        image_root: folder that the manifest's paths start from; by default the manifest's own.
        encoder: name or folder of the encoder to measure.
        vectors: measure these stored vectors instead of encoding.
        baselines: what to compare with; both floors by default.
        rows: ``COLUMN=VALUE`` conditions on the rows taken part; gallery and queries alike.
        queries: further conditions on the rows that may be queries.
        save_vectors_to: keep the vectors in this ``.npz`` file.
        progress: told how far encoding is.

    Raises:
        ManifestError: the manifest cannot be read, or lacks a column.
        EvaluationError: no rows, no vectors for some rows, one class only, or no query that counts.
        VectorError: stored vectors that are NaN or zero.
    """
    from clinical_clip.data.source import open_source

    found = list(open_source(manifest, image_root=image_root))
    return evaluate_records(
        [item for item in found if isinstance(item, ImageRecord)],
        protocol,
        name=manifest.name,
        unread=[item for item in found if isinstance(item, Rejection)],
        encoder=encoder,
        vectors=vectors,
        baselines=baselines,
        rows=rows,
        queries=queries,
        save_vectors_to=save_vectors_to,
        progress=progress,
    )


def evaluate_records(
    records: Sequence[ImageRecord],
    protocol: Protocol,
    *,
    name: str,
    unread: Sequence[Rejection] = (),
    encoder: str = "imagenet-lite0",
    vectors: Path | None = None,
    baselines: Baselines | None = None,
    rows: Sequence[str] = (),
    queries: Sequence[str] = (),
    save_vectors_to: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure retrieval over records of any source; see :func:`evaluate_manifest`.

    Images that one method cannot read are left out for all, so that every method answers the same queries
    from the same gallery.
    """
    baselines = baselines or Baselines()
    wanted = parse_conditions(queries, option="--queries")
    table = Table.of((record.name, _fields(record)) for record in records)
    protocol = _with_group(table, protocol)
    table = table.select(parse_conditions(rows, option="--rows"))
    _check_columns(table, protocol, wanted)
    by_name = {record.name: record for record in records}
    chosen = [by_name[row] for row in table.names]
    measured = [stored(table.names, vectors) if vectors else encode(chosen, encoder, progress)]
    if save_vectors_to is not None and measured[0].vectors_ND is not None:
        save_vectors(save_vectors_to, measured[0].rows, measured[0].vectors_ND)
    measured.extend(_measure_baselines(table, chosen, baselines, protocol, progress))
    rejections = {r.name: r for r in [*unread, *(r for m in measured for r in m.rejections)]}
    table = table.take([i for i, row in enumerate(table.names) if row not in rejections])
    if not table.names:
        raise EvaluationError(
            "none of the images can be read",
            where=name,
            hint="check --image-root, and the rejections' causes",
        )
    exclusion_N = protocol.exclusion(table)
    settings = evaluate_table(
        table, {m.info.name: m.of(table.names) for m in measured}, protocol, query_N=table.mask(wanted)
    )
    return Evaluation(
        manifest=name,
        rows=tuple(rows),
        queries=tuple(queries),
        images=len(table),
        ungrouped=0 if exclusion_N is None else int(np.count_nonzero(exclusion_N < 0)),
        protocol=protocol,
        methods=tuple(m.info for m in measured),
        settings=settings,
        rejections=tuple(rejections.values()),
        version=__version__,
    )


def _fields(record: ImageRecord) -> dict[str, FieldValue]:
    """What may be shown, and ``patient`` and ``study`` as fingerprints to group by."""
    fields = dict(record.fields)
    patient = record.patient
    if patient is not None and patient.patient_id:
        fields.setdefault(PATIENT, _fingerprint(patient.issuer, patient.patient_id))
    if record.study_uid:
        fields.setdefault(STUDY, _fingerprint(record.study_uid))
    return fields


def _fingerprint(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _with_group(table: Table, protocol: Protocol) -> Protocol:
    """Without the default group column, group by patient, else by study, where these are known."""
    if protocol.group_column != DEFAULT_GROUP or DEFAULT_GROUP in table.columns:
        return protocol
    known = next((column for column in (PATIENT, STUDY) if column in table.columns), DEFAULT_GROUP)
    return replace(protocol, group_column=known)


def _check_columns(table: Table, protocol: Protocol, wanted: dict[str, frozenset[str]]) -> None:
    """Name a missing column before minutes of encoding, not after."""
    excluded = [protocol.exclusion_column] if protocol.exclusion_column else []
    for column in [*(c for setting in protocol.labels for c in setting), *excluded, *wanted]:
        table.column(column)


def _measure_baselines(
    table: Table,
    records: Sequence[ImageRecord],
    baselines: Baselines,
    protocol: Protocol,
    progress: Progress | None,
) -> Iterator[Measured]:
    names: set[str] = set()
    for path in baselines.files:
        if path.stem in names:
            raise OptionError("two baselines of one name", where="--compare", hint="rename one of the files")
        names.add(path.stem)
        yield stored(table.names, path)
    if baselines.pixels:
        yield pixel_floor(records, progress)
    if baselines.random:
        yield random_floor(protocol.seed)
