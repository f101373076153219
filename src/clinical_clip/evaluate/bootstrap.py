"""Intervals and paired tests over queries, by clusters: patients, not images, are the unit.

Images of one patient or near-duplicate group rise and fall together; to resample them one by one would
make intervals too narrow. So whole clusters are drawn (percentile bootstrap, Efron & Tibshirani 1993,
chapters 13 and 8.6) and whole clusters change sides in the paired test (Smucker et al., CIKM 2007).

Shape suffixes: Q queries, G clusters, S strata (sources), B replicates, M metrics.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Clusters", "Interval", "intervals", "paired_tests"]

Values = NDArray[np.float64]
_CHUNK = 2_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean and the 95 % percentile interval around it; NaN ends where no resampling was asked for."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Clusters:
    """Which cluster and stratum each query belongs to.

    Attributes:
        cluster_Q: codes 0..G-1, those that are resampled together.
        stratum_Q: codes 0..S-1, whose means the macro average averages; all 0 for the plain (micro) mean.
        replicates: how many resamples or permutations; 0 gives no interval and no p-value.
        seed: the same seed draws the same clusters, so methods are compared replicate by replicate.
    """

    cluster_Q: NDArray[np.intp]
    stratum_Q: NDArray[np.intp]
    replicates: int
    seed: int

    def __post_init__(self) -> None:
        if len(self.cluster_Q) != len(self.stratum_Q) or not len(self.cluster_Q):
            raise ValueError("clusters need one cluster and one stratum for each of at least one query")

    def pooled(self) -> Clusters:
        """The same clusters without strata, for the micro mean."""
        return replace(self, stratum_Q=np.zeros_like(self.stratum_Q))

    def table(self, value_Q: Values) -> Values:
        """Sums of ``value_Q`` by cluster and stratum, (G, S)."""
        clusters, strata = int(self.cluster_Q.max()) + 1, int(self.stratum_Q.max()) + 1
        flat = self.cluster_Q * strata + self.stratum_Q
        sums = np.bincount(flat, weights=value_Q, minlength=clusters * strata)
        return np.asarray(sums, dtype=np.float64).reshape(clusters, strata)


def _mean(sum_BS: Values, count_BS: Values) -> Values:
    """Mean over strata of the means within; strata that a replicate did not draw are left out of it."""
    drawn_BS = count_BS > 0
    mean_BS = np.divide(sum_BS, count_BS, out=np.zeros_like(sum_BS), where=drawn_BS)
    return np.asarray(mean_BS.sum(axis=1) / np.maximum(drawn_BS.sum(axis=1), 1), dtype=np.float64)


def _chunks(replicates: int, clusters: int) -> Iterator[int]:
    step = max(1, _CHUNK // max(1, clusters))
    for start in range(0, replicates, step):
        yield min(step, replicates - start)


def intervals(values_QM: Values, clusters: Clusters, *, level: float = 0.95) -> list[Interval]:
    """Mean of each column (over strata, of the means within) with its percentile bootstrap interval.

    Args:
        values_QM: M quantities of the same Q queries; all M see the same resampled clusters.
        clusters: how the queries hang together.
        level: coverage aimed at.

    >>> c = Clusters(cluster_Q=np.arange(4), stratum_Q=np.zeros(4, int), replicates=100, seed=1)
    >>> intervals(np.ones((4, 1)), c)
    [Interval(value=1.0, low=1.0, high=1.0)]
    """
    tables = [clusters.table(column) for column in values_QM.T]
    count_GS = clusters.table(np.ones(len(values_QM)))
    total_1S = count_GS.sum(0, keepdims=True)
    means = [float(_mean(table.sum(0, keepdims=True), total_1S)[0]) for table in tables]
    if clusters.replicates < 1:
        return [Interval(value=mean, low=float("nan"), high=float("nan")) for mean in means]
    rng, size = np.random.default_rng(clusters.seed), len(count_GS)
    parts: list[list[Values]] = [[] for _ in tables]
    for rows in _chunks(clusters.replicates, size):
        weight_BG = rng.multinomial(size, np.full(size, 1.0 / size), size=rows).astype(np.float64)
        count_BS = weight_BG @ count_GS
        for part, table in zip(parts, tables, strict=True):
            part.append(_mean(weight_BG @ table, count_BS))
    tail = (1.0 - level) / 2.0
    ends = [np.quantile(np.concatenate(part), [tail, 1.0 - tail]) for part in parts]
    return [Interval(value=m, low=float(e[0]), high=float(e[1])) for m, e in zip(means, ends, strict=True)]


def paired_tests(differences_QM: Values, clusters: Clusters) -> list[float]:
    """Two-sided p, column by column, of the randomisation test that two methods are exchangeable.

    A permutation swaps the two methods for a random half of the clusters, which turns the sign of their
    differences. The p-value counts the observed assignment as one permutation, so it is never 0 but at least
    1 / (replicates + 1). With strata, the statistic is the macro mean of the differences.

    >>> c = Clusters(cluster_Q=np.arange(3), stratum_Q=np.zeros(3, int), replicates=99, seed=1)
    >>> paired_tests(np.zeros((3, 1)), c)
    [1.0]
    """
    count_S = np.bincount(clusters.stratum_Q)
    weight_Q = 1.0 / (count_S[clusters.stratum_Q] * np.count_nonzero(count_S))
    size, columns = int(clusters.cluster_Q.max()) + 1, differences_QM.T * weight_Q
    difference_GM = np.stack([np.bincount(clusters.cluster_Q, weights=c, minlength=size) for c in columns], 1)
    observed_M = np.abs(difference_GM.sum(axis=0))
    rng, extreme_M = np.random.default_rng(clusters.seed), np.zeros(len(observed_M), dtype=np.int64)
    for rows in _chunks(clusters.replicates, size):
        sign_BG = rng.integers(0, 2, size=(rows, size), dtype=np.int8) * 2.0 - 1.0
        extreme_M += np.count_nonzero(np.abs(sign_BG @ difference_GM) >= observed_M - 1e-12, axis=0)
    return [float(p) for p in (extreme_M + 1) / (clusters.replicates + 1)]
