"""Intervals and tests against scipy, enumeration and simulation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from clinical_clip.evaluate.bootstrap import Clusters, intervals, paired_tests


def clusters(cluster, replicates=2000, seed=1):
    return Clusters(cluster_Q=np.asarray(cluster), replicates=replicates, seed=seed)


def test_without_clusters_it_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(0).beta(2, 3, 150)
    ours = intervals(values[:, None], clusters(np.arange(150), replicates=20_000))[0]
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(9)
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.002)


def test_repeating_every_image_of_a_patient_gains_no_certainty():
    values = np.random.default_rng(1).random(60)
    repeated, patient = np.repeat(values, 9), np.repeat(np.arange(60), 9)
    once = intervals(values[:, None], clusters(np.arange(60)))[0]
    by_patient = intervals(repeated[:, None], clusters(patient))[0]
    by_image = intervals(repeated[:, None], clusters(np.arange(540)))[0]
    assert (by_patient.low, by_patient.high) == pytest.approx((once.low, once.high))
    assert (by_image.high - by_image.low) < 0.5 * (by_patient.high - by_patient.low)


def test_columns_share_their_resamples_and_seeds_repeat():
    values = np.random.default_rng(4).random((40, 1))
    pair = intervals(np.hstack([values, values + 1]), clusters(np.arange(40)))
    assert pair[1].low == pytest.approx(pair[0].low + 1)
    again = intervals(values, clusters(np.arange(40)))[0]
    other = intervals(values, clusters(np.arange(40), seed=2))[0]
    assert (again.low, again.high) == pytest.approx((pair[0].low, pair[0].high), abs=1e-12)
    assert other.low != pytest.approx(pair[0].low, abs=1e-6)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng, covered, trials = np.random.default_rng(5), 0, 300
    for trial in range(trials):
        patient = np.repeat(np.arange(60), 4)
        values = rng.normal(0.0, 1.0, 60)[patient] + rng.normal(0.0, 0.5, 240)
        found = intervals(values[:, None], clusters(patient, replicates=400, seed=trial))[0]
        covered += found.low <= 0.0 <= found.high
    assert 0.90 <= covered / trials <= 0.98


def test_paired_p_is_that_of_all_assignments():
    difference = np.array([0.3, -0.1, 0.2, 0.4, -0.05, 0.15, 0.2, 0.1])
    patient = np.array([0, 0, 1, 2, 3, 4, 5, 6])
    by_patient = np.bincount(patient, weights=difference)
    every = [abs(np.dot(signs, by_patient)) for signs in product((-1, 1), repeat=7)]
    exact = np.mean(np.array(every) >= abs(by_patient.sum()) - 1e-12)
    found = paired_tests(difference[:, None], clusters(patient, replicates=40_000))[0]
    assert found == pytest.approx(exact, abs=0.005)


def test_p_values_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(6)
    p = [
        paired_tests(rng.normal(0, 1, (50, 1)), clusters(np.arange(50), replicates=199, seed=i))[0]
        for i in range(400)
    ]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.08)


def test_a_clear_difference_is_found_and_p_is_never_zero():
    p = paired_tests(np.full((80, 1), 0.2), clusters(np.arange(80), replicates=499))[0]
    assert p == 1 / 500


def test_no_replicates_give_no_interval():
    found = intervals(np.ones((3, 1)), clusters(np.arange(3), replicates=0))[0]
    assert found.value == 1.0
    assert np.isnan([found.low, found.high]).all()


def test_chunks_of_resamples_do_not_change_the_result(monkeypatch):
    values = np.random.default_rng(7).random((30, 2))
    patients = clusters(np.arange(30))
    whole = intervals(values, patients), paired_tests(values - 0.5, patients)
    monkeypatch.setattr("clinical_clip.evaluate.bootstrap._CHUNK", 100)
    assert (intervals(values, patients), paired_tests(values - 0.5, patients)) == whole


def test_no_queries_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        clusters([])
