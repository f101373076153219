"""From the metrics of single queries to means, intervals and tests.

Shape suffixes: Q queries, M metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from clinical_clip.evaluate.bootstrap import Clusters, Interval, intervals, paired_tests
from clinical_clip.evaluate.results import Comparison, MethodScores, Score

__all__ = ["compare_methods", "summarise_method"]

Values = NDArray[np.float64]
Rows = Mapping[str, NDArray[np.intp]]


def summarise_method(
    name: str,
    metrics: Sequence[str],
    value_QM: Values,
    clusters: Clusters,
    *,
    by_source: Rows,
    by_class: Rows,
) -> MethodScores:
    """Micro and (with at least two sources) macro means with intervals, and means by source and class."""
    micro, macro = _averages(value_QM, clusters)
    return MethodScores(
        method=name,
        scores=tuple(
            Score(metric=metric, micro=micro[i], macro=macro[i] if macro else None)
            for i, metric in enumerate(metrics)
        ),
        by_source=_means(metrics, value_QM, by_source),
        by_class=_means(metrics, value_QM, by_class),
    )


def compare_methods(
    first: str, baseline: str, metrics: Sequence[str], difference_QM: Values, clusters: Clusters
) -> Iterator[Comparison]:
    """Every metric's mean difference, its interval and the p of the paired test, micro and macro."""
    if clusters.replicates < 1:
        return
    micro, macro = _averages(difference_QM, clusters)
    micro_p = paired_tests(difference_QM, clusters.pooled())
    macro_p = paired_tests(difference_QM, clusters) if macro else None
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


def _averages(value_QM: Values, clusters: Clusters) -> tuple[list[Interval], list[Interval] | None]:
    several = int(clusters.stratum_Q.max()) > 0
    return intervals(value_QM, clusters.pooled()), intervals(value_QM, clusters) if several else None


def _means(metrics: Sequence[str], value_QM: Values, rows: Rows) -> dict[str, dict[str, float]]:
    return {
        value: {
            metric: float(mean) for metric, mean in zip(metrics, value_QM[index].mean(axis=0), strict=True)
        }
        for value, index in rows.items()
        if len(index)
    }
