"""Intervals and paired tests by clusters: patients, not images, are the unit.

Images of one patient or near-duplicate group rise and fall together; to resample them one by one would
make intervals too narrow. So whole clusters are drawn (percentile bootstrap, Efron & Tibshirani 1993,
chapter 13) and whole clusters change sides in the paired test (Smucker et al., CIKM 2007).

Shape suffixes: Q queries (or whatever the mean is over), G clusters, B replicates, M metrics.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
    """What is resampled together.

    Attributes:
        cluster_Q: codes 0..G-1 of the queries' clusters, each used at least once.
        replicates: how many resamples or permutations; 0 gives no interval.
        seed: the same seed draws the same clusters, so methods are compared replicate by replicate.
    """

    cluster_Q: NDArray[np.intp]
    replicates: int
    seed: int

    def __post_init__(self) -> None:
        if not len(self.cluster_Q):
            raise ValueError("there must be at least one query")

    @property
    def size(self) -> int:
        """Number of clusters G."""
        return int(self.cluster_Q.max()) + 1

    def sums(self, values_QM: Values) -> Values:
        """Sums of each column over the members of each cluster, (G, M)."""
        columns = [np.bincount(self.cluster_Q, weights=c, minlength=self.size) for c in values_QM.T]
        return np.stack(columns, axis=1)

    def chunks(self) -> Iterator[int]:
        """How many replicates to draw at once, so that memory stays bounded."""
        step = max(1, _CHUNK // self.size)
        for start in range(0, self.replicates, step):
            yield min(step, self.replicates - start)


def intervals(values_QM: Values, clusters: Clusters, *, level: float = 0.95) -> list[Interval]:
    """Mean of each column with its percentile bootstrap interval.

    A replicate draws G clusters with replacement and takes the mean over all their queries.

    Args:
        values_QM: M quantities of the same Q queries; all M see the same resampled clusters.
        clusters: how the queries hang together.
        level: coverage aimed at.

    >>> intervals(np.ones((4, 1)), Clusters(cluster_Q=np.arange(4), replicates=100, seed=1))
    [Interval(value=1.0, low=1.0, high=1.0)]
    """
    means = [float(mean) for mean in values_QM.mean(axis=0)]
    if clusters.replicates < 1:
        return [Interval(value=mean, low=float("nan"), high=float("nan")) for mean in means]
    sum_GM, count_G1 = clusters.sums(values_QM), clusters.sums(np.ones((len(values_QM), 1)))
    rng, size = np.random.default_rng(clusters.seed), clusters.size
    parts = []
    for rows in clusters.chunks():
        weight_BG = rng.multinomial(size, np.full(size, 1.0 / size), size=rows).astype(np.float64)
        parts.append((weight_BG @ sum_GM) / (weight_BG @ count_G1))
    tail = (1.0 - level) / 2.0
    low_M, high_M = np.quantile(np.concatenate(parts), [tail, 1.0 - tail], axis=0)
    ends = zip(means, low_M, high_M, strict=True)
    return [Interval(value=mean, low=float(low), high=float(high)) for mean, low, high in ends]


def paired_tests(differences_QM: Values, clusters: Clusters) -> list[float]:
    """Two-sided p, column by column, of the randomisation test that two methods are exchangeable.

    A permutation swaps the two methods for a random half of the clusters, which turns the sign of their
    differences. The p-value counts the observed assignment as one permutation, so it is never 0 but at least
    1 / (replicates + 1).

    >>> paired_tests(np.zeros((3, 1)), Clusters(cluster_Q=np.arange(3), replicates=99, seed=1))
    [1.0]
    """
    difference_GM = clusters.sums(differences_QM)
    observed_M = np.abs(difference_GM.sum(axis=0))
    rng, extreme_M = np.random.default_rng(clusters.seed), np.zeros(len(observed_M), dtype=np.int64)
    tolerance_M = 1e-9 * np.abs(difference_GM).sum(axis=0)  # sums in another order differ in the last bits
    for rows in clusters.chunks():
        sign_BG = np.where(rng.random((rows, clusters.size)) < 0.5, 1.0, -1.0)
        extreme_M += np.count_nonzero(np.abs(sign_BG @ difference_GM) >= observed_M - tolerance_M, axis=0)
    return [float(p) for p in (extreme_M + 1) / (clusters.replicates + 1)]
