"""From the metrics of single queries to means, intervals and tests.

Two means, and two units: the micro average is a mean over queries, and whole groups (patients) are resampled;
the macro average is a mean over sources of the means within, and whole sources are resampled.

Shape suffixes: Q queries, S sources, M metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clinical_clip.evaluate.bootstrap import Clusters, Interval, intervals, paired_tests
from clinical_clip.evaluate.results import Comparison, MethodScores, Score

__all__ = ["Units", "compare_methods", "summarise_method"]

Values = NDArray[np.float64]
Rows = Mapping[str, NDArray[np.intp]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Units:
    """What the queries of a setting are resampled and broken down by.

    Attributes:
        groups: the clusters of the queries.
        by_source: positions of the queries of each source; fewer than two sources have no macro average.
        by_class: positions of the queries of each class.
    """

    groups: Clusters
    by_source: Rows
    by_class: Rows

    def macro(self, values_QM: Values) -> tuple[Values, Clusters] | None:
        """The sources' means (S, M), each source a cluster of its own; None without several sources."""
        if len(self.by_source) < 2:
            return None
        means_SM = np.stack([values_QM[index].mean(axis=0) for index in self.by_source.values()])
        return means_SM, replace(self.groups, cluster_Q=np.arange(len(means_SM)))


def summarise_method(name: str, metrics: Sequence[str], values_QM: Values, units: Units) -> MethodScores:
    """Micro and macro means with intervals, and plain means by source and class."""
    micro, macro = _averages(values_QM, units)
    return MethodScores(
        method=name,
        scores=tuple(
            Score(metric=metric, micro=micro[i], macro=macro[i] if macro else None)
            for i, metric in enumerate(metrics)
        ),
        by_source=_means(metrics, values_QM, units.by_source),
        by_class=_means(metrics, values_QM, units.by_class),
    )


def compare_methods(
    first: str, baseline: str, metrics: Sequence[str], differences_QM: Values, units: Units
) -> Iterator[Comparison]:
    """Every metric's mean difference, its interval and the p of the paired test, micro and macro."""
    if units.groups.replicates < 1:
        return
    micro, macro = _averages(differences_QM, units)
    micro_p = paired_tests(differences_QM, units.groups)
    sources = units.macro(differences_QM)
    macro_p = paired_tests(*sources) if sources else None
    for i, metric in enumerate(metrics):
        yield Comparison(
            metric=metric,
            method=first,
            baseline=baseline,
            micro=micro[i],
            micro_p=micro_p[i],
            macro=macro[i] if macro else None,
            macro_p=macro_p[i] if macro_p else None,
        )


def _averages(values_QM: Values, units: Units) -> tuple[list[Interval], list[Interval] | None]:
    sources = units.macro(values_QM)
    return intervals(values_QM, units.groups), intervals(*sources) if sources else None


def _means(metrics: Sequence[str], values_QM: Values, rows: Rows) -> dict[str, dict[str, float]]:
    return {
        value: dict(zip(metrics, (float(mean) for mean in values_QM[index].mean(axis=0)), strict=True))
        for value, index in rows.items()
        if len(index)
    }
