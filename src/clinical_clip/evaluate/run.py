"""From vectors and labels to scores: every method takes the same way, floors included.

Shape suffixes: N rows of the table, Q queries that count, M metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clinical_clip.errors import EvaluationError, OptionError
from clinical_clip.evaluate.bootstrap import Clusters
from clinical_clip.evaluate.floors import expected_at_random
from clinical_clip.evaluate.metrics import measure
from clinical_clip.evaluate.names import CHANCE
from clinical_clip.evaluate.protocol import Protocol, gallery_counts
from clinical_clip.evaluate.ranking import cosine_scorer, random_scorer, rank
from clinical_clip.evaluate.results import ClassCount, LeftOut, SettingResult
from clinical_clip.evaluate.summary import Units, compare_methods, summarise_method
from clinical_clip.evaluate.table import Codes, Table

__all__ = ["evaluate_table"]

Positions = NDArray[np.intp]
Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Setting:
    """A label setting with its queries; ``query_Q`` are rows of the whole table, ascending."""

    name: str
    codes: Codes
    labelled_N: NDArray[np.bool_]
    query_Q: Positions
    relevant_Q: NDArray[np.int64]
    eligible_Q: NDArray[np.int64]
    left_out: LeftOut
    classes: Mapping[str, ClassCount]


def evaluate_table(
    table: Table,
    methods: Mapping[str, NDArray[np.float32] | None],
    protocol: Protocol,
    *,
    query_N: NDArray[np.bool_] | None = None,
) -> tuple[SettingResult, ...]:
    """Rank the table's images by every method and score the rankings in every label setting.

    Args:
        table: the images; they are gallery and queries at once.
        methods: L2-normalised vectors (N, D) by the method's name, in the table's order; None ranks at
            random. The first is what is measured, the others are its baselines.
        protocol: what is measured.
        query_N: which rows may be queries, by default all.

    Raises:
        ManifestError: a column is missing.
        EvaluationError: a setting has one class only, or no query that counts.

    >>> table = Table.of([(f"{i}.png", {"modality": "ct" if i < 3 else "mr"}) for i in range(6)])
    >>> eye = np.repeat(np.eye(2, dtype=np.float32), 3, axis=0)
    >>> protocol = Protocol(labels=(("modality",),), ks=(2,), replicates=0)
    >>> evaluate_table(table, {"perfect": eye}, protocol)[0].method("perfect").score("P@2").micro.value
    1.0
    """
    for name, vectors in methods.items():
        if vectors is not None and len(vectors) != len(table):
            raise OptionError(f"{name} has {len(vectors)} vectors for {len(table)} images", where="methods")
    asked_N = np.ones(len(table), dtype=np.bool_) if query_N is None else query_N
    exclusion_N = protocol.exclusion(table)
    settings = [_setting(table, columns, exclusion_N, asked_N, protocol) for columns in protocol.labels]
    values: dict[str, dict[str, Values]] = {setting.name: {} for setting in settings}
    for labelled_N in {s.labelled_N.tobytes(): s.labelled_N for s in settings}.values():
        alike = [s for s in settings if np.array_equal(s.labelled_N, labelled_N)]
        for name, vectors in methods.items():
            found = _score_rankings(np.flatnonzero(labelled_N), alike, vectors, exclusion_N, protocol)
            for setting, values_QM in zip(alike, found, strict=True):
                values[setting.name][name] = values_QM
    return tuple(_result(table, setting, values[setting.name], protocol) for setting in settings)


def _setting(
    table: Table,
    columns: Sequence[str],
    exclusion_N: NDArray[np.int64] | None,
    asked_N: NDArray[np.bool_],
    protocol: Protocol,
) -> _Setting:
    name, codes = "+".join(columns), table.codes(*columns)
    labelled_N = codes.code_N >= 0
    if len(codes.values) < 2:
        raise EvaluationError(
            f"{len(codes.values)} class of {name} in {len(table)} rows: every ranking would score alike",
            where="labels",
            hint="choose another column, or rows with at least two classes",
        )
    rows = np.flatnonzero(labelled_N)
    relevant, eligible = gallery_counts(
        codes.code_N[rows], None if exclusion_N is None else exclusion_N[rows]
    )
    asked = asked_N[rows]
    empty, few = asked & (eligible < 1), asked & (eligible >= 1) & (relevant < protocol.needed)
    kept = asked & ~empty & ~few
    left_out = LeftOut(
        no_label=int(np.count_nonzero(asked_N & ~labelled_N)),
        empty_gallery=int(empty.sum()),
        few_relevant=int(few.sum()),
    )
    if not kept.any():
        raise EvaluationError(
            f"no query of {name} counts: {left_out.no_label} without label, {left_out.empty_gallery} with an "
            f"empty gallery, {left_out.few_relevant} with fewer than {protocol.needed} relevant images",
            where="queries",
            hint="use a smaller K, --min-relevant 1, another --gallery, or more rows",
        )
    classes = {
        value: ClassCount(
            gallery=int(of_class.sum()),
            queries=int((of_class & kept).sum()),
            left_out=int((of_class & asked & ~kept).sum()),
        )
        for value, of_class in ((v, codes.code_N[rows] == i) for i, v in enumerate(codes.values))
    }
    return _Setting(
        name=name,
        codes=codes,
        labelled_N=labelled_N,
        query_Q=rows[kept],
        relevant_Q=relevant[kept],
        eligible_Q=eligible[kept],
        left_out=left_out,
        classes=classes,
    )


def _score_rankings(
    rows: Positions,
    settings: Sequence[_Setting],
    vectors_ND: NDArray[np.float32] | None,
    exclusion_N: NDArray[np.int64] | None,
    protocol: Protocol,
) -> list[Values]:
    """Metrics (Q, M) of each setting; all settings have the gallery ``rows`` and share one ranking."""
    if vectors_ND is None:
        scorer = random_scorer(seed=protocol.seed)
    else:
        scorer = cosine_scorer(vectors_ND if len(rows) == len(vectors_ND) else vectors_ND[rows])
    queries = np.unique(np.concatenate([setting.query_Q for setting in settings]))
    exclusion = None if exclusion_N is None else exclusion_N[rows]
    found: list[list[Values]] = [[] for _ in settings]
    for ranked in rank(scorer, np.searchsorted(rows, queries), len(rows), exclusion_N=exclusion):
        query = rows[ranked.query_Q]
        for part, setting in zip(found, settings, strict=True):
            kept = np.isin(query, setting.query_Q, assume_unique=True)
            if not kept.any():
                continue
            label_N = setting.codes.code_N[rows]
            order_QN = ranked.order_QN if kept.all() else ranked.order_QN[kept]
            relevance_QN = label_N[order_QN] == label_N[ranked.query_Q[kept], None]
            for relevance_N, eligible in zip(relevance_QN, ranked.eligible_Q[kept], strict=True):
                relevance_N[eligible:] = False
            relevant_Q = np.count_nonzero(relevance_QN, axis=1)
            part.append(np.stack(list(measure(relevance_QN, relevant_Q, protocol.ks).values()), axis=1))
    return [np.concatenate(part) for part in found]


def _result(table: Table, setting: _Setting, values: dict[str, Values], protocol: Protocol) -> SettingResult:
    chance = expected_at_random(setting.relevant_Q, setting.eligible_Q, protocol.ks)
    metrics = tuple(chance)
    everything = values | {CHANCE: np.stack(list(chance.values()), axis=1)}
    units = _units(table, setting, protocol)
    first, *baselines = values
    return SettingResult(
        name=setting.name,
        gallery=int(setting.labelled_N.sum()),
        queries=len(setting.query_Q),
        clusters=units.groups.size,
        sources={source: len(rows) for source, rows in units.by_source.items()},
        left_out=setting.left_out,
        classes=setting.classes,
        methods=tuple(
            summarise_method(name, metrics, values_QM, units) for name, values_QM in everything.items()
        ),
        comparisons=tuple(
            comparison
            for name in baselines
            for comparison in compare_methods(first, name, metrics, values[first] - values[name], units)
        ),
    )


def _units(table: Table, setting: _Setting, protocol: Protocol) -> Units:
    """Groups, sources and classes of the queries; a query without a group is a group of its own."""
    query_Q = setting.query_Q
    group_N = np.full(len(table), -1, dtype=np.int64)
    if protocol.group_column in table.columns:
        group_N = table.codes(protocol.group_column).code_N
    own_N = np.where(group_N < 0, len(table) + np.arange(len(table)), group_N)
    cluster_Q = np.unique(own_N[query_Q], return_inverse=True)[1].reshape(-1)
    by_source: dict[str, Positions] = {}
    if protocol.source_column in table.columns:
        source_Q = np.array([table.column(protocol.source_column)[i] or "(none)" for i in query_Q])
        by_source = {str(source): np.flatnonzero(source_Q == source) for source in np.unique(source_Q)}
    code_Q = setting.codes.code_N[query_Q]
    return Units(
        groups=Clusters(cluster_Q=cluster_Q, replicates=protocol.replicates, seed=protocol.seed),
        by_source=by_source,
        by_class={value: np.flatnonzero(code_Q == i) for i, value in enumerate(setting.codes.values)},
    )
