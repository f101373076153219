"""Whole evaluations of vectors whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from clinical_clip.errors import EvaluationError, ManifestError, OptionError
from clinical_clip.evaluate.names import CHANCE
from clinical_clip.evaluate.protocol import GalleryRule, MinRelevant, Protocol
from clinical_clip.evaluate.run import evaluate_table
from clinical_clip.evaluate.table import Table
from clinical_clip.evaluate.vectors import normalise


def table_of(**columns):
    size = len(next(iter(columns.values())))
    return Table.of([(f"{i:04}.png", {k: str(v[i]) for k, v in columns.items()}) for i in range(size)])


def clouds(labels, noise=0.05, seed=0):
    """Vectors close to their class's own direction."""
    rng = np.random.default_rng(seed)
    codes = np.unique(labels, return_inverse=True)[1]
    vectors = np.eye(int(codes.max()) + 1, 16)[codes] + noise * rng.standard_normal((len(labels), 16))
    return normalise(vectors, [str(label) for label in labels])


def value(setting, method, metric="P@5", average="micro"):
    return getattr(setting.method(method).score(metric), average).value


LABEL = np.repeat(["ct", "mr", "us"], 40)


def test_classes_in_clouds_of_their_own_are_found_and_permuted_labels_fall_to_chance():
    vectors, protocol = clouds(LABEL), Protocol(labels=(("modality",),), replicates=200)
    found = evaluate_table(table_of(modality=LABEL), {"own": vectors, "random": None}, protocol)[0]
    assert value(found, "own") == 1.0
    assert value(found, "own", "mAP") == 1.0
    assert value(found, CHANCE) == pytest.approx(39 / 119)
    assert value(found, "random") == pytest.approx(39 / 119, abs=0.06)
    assert [c.micro_p for c in found.comparisons if c.metric == "P@5"] == [1 / 201]

    permuted = np.random.default_rng(5).permutation(LABEL)
    shuffled = evaluate_table(table_of(modality=permuted), {"own": vectors}, protocol)[0]
    for metric in ("P@5", "P@30", "R-precision", "mAP"):
        assert value(shuffled, "own", metric) == pytest.approx(value(shuffled, CHANCE, metric), abs=0.06)


def test_duplicates_in_the_group_do_not_help_without_the_group():
    """Pairs of one patient are identical; everything else is noise."""
    rng, patient = np.random.default_rng(1), np.repeat(np.arange(60), 2)
    vectors = normalise(rng.standard_normal((60, 32))[patient], [str(p) for p in patient])
    label = rng.integers(0, 2, 60)[patient]
    table = table_of(finding=label, split_group=[f"p{p}" for p in patient])
    protocol = {"labels": (("finding",),), "ks": (1,), "replicates": 0}
    leaking = evaluate_table(table, {"v": vectors}, Protocol(**protocol))[0]
    honest = evaluate_table(table, {"v": vectors}, Protocol(**protocol, gallery=GalleryRule.OTHER_GROUP))[0]
    assert value(leaking, "v", "P@1") == 1.0
    assert value(honest, "v", "P@1") < 0.7
    assert (leaking.clusters, honest.clusters) == (60, 60)


def test_queries_that_cannot_reach_full_precision_are_left_out_and_counted():
    label = ["ct"] * 6 + ["mr"] * 3 + ["", "us"]
    source = ["A", "A", "A", "B", "B", "B", "A", "A", "B", "A", "A"]
    table = table_of(modality=label, source=source)
    vectors = clouds(label, seed=2)
    base = {"labels": (("modality",),), "gallery": GalleryRule.OTHER_SOURCE, "ks": (1, 2), "replicates": 0}
    expected = {MinRelevant.MAX_K: (7, 3), MinRelevant.ONE: (9, 1), MinRelevant.NONE: (10, 0)}
    for rule, (queries, left_out) in expected.items():
        found = evaluate_table(table, {"v": vectors}, Protocol(**base, min_relevant=rule))[0]
        assert (found.queries, found.left_out.few_relevant, found.left_out.no_label) == (queries, left_out, 1)
        assert found.gallery == 10
        assert found.left_out.empty_gallery == 0
    assert found.classes["mr"].gallery == 3
    maxk = evaluate_table(table, {"v": vectors}, Protocol(**base))[0]
    # the mr image of B finds two of its class in A; those of A find one only, too few for K = 2
    assert (maxk.classes["mr"].queries, maxk.classes["mr"].left_out) == (1, 2)
    assert (maxk.classes["us"].queries, maxk.classes["us"].left_out) == (0, 1)


def test_a_query_whose_source_is_everything_has_an_empty_gallery():
    table = table_of(modality=["ct", "mr", "ct", "mr"], source=["A"] * 4)
    protocol = Protocol(
        labels=(("modality",),), gallery=GalleryRule.OTHER_SOURCE, min_relevant=MinRelevant.NONE
    )
    with pytest.raises(EvaluationError, match="4 with an empty gallery"):
        evaluate_table(table, {"random": None}, protocol)


def test_unlabelled_images_are_neither_queries_nor_gallery_of_their_setting():
    label = ["ct", "ct", "ct", "mr", "mr", "mr"] + [""] * 20
    organ = ["chest", "head"] * 13
    vectors = np.ones((26, 2), dtype=np.float32) / np.float32(np.sqrt(2))  # all alike: order is that of ids
    protocol = Protocol(labels=(("modality",), ("organ",)), ks=(2,), replicates=0)
    by_modality, by_organ = evaluate_table(table_of(modality=label, organ=organ), {"v": vectors}, protocol)
    assert (by_modality.gallery, by_modality.left_out.no_label) == (6, 20)
    assert (by_organ.gallery, by_organ.queries) == (26, 26)
    # ties by id: a ct image finds the other two ct, an mr image the first two ct
    assert value(by_modality, "v", "P@2") == 0.5


def test_micro_weighs_queries_and_macro_weighs_sources():
    label = ["ct", "mr"] * 30
    source = ["big"] * 50 + ["small"] * 10
    vectors = clouds(label)
    vectors[50:] = clouds(label[50:], noise=50.0, seed=3)
    found = evaluate_table(
        table_of(modality=label, source=source),
        {"v": vectors},
        Protocol(labels=(("modality",),), ks=(5,), replicates=100),
    )[0]
    means = found.method("v").by_source
    assert found.sources == {"big": 50, "small": 10}
    micro = (50 * means["big"]["P@5"] + 10 * means["small"]["P@5"]) / 60
    macro = (means["big"]["P@5"] + means["small"]["P@5"]) / 2
    assert value(found, "v") == pytest.approx(micro)
    assert value(found, "v", average="macro") == pytest.approx(macro)
    assert micro > macro + 0.1
    interval = found.method("v").score("P@5").macro
    assert (interval.low, interval.high) == pytest.approx((means["small"]["P@5"], means["big"]["P@5"]))


def test_one_source_has_no_macro_average():
    found = evaluate_table(
        table_of(modality=LABEL, source=["A"] * 120), {"v": clouds(LABEL)}, Protocol(labels=(("modality",),))
    )[0]
    assert found.method("v").score("P@5").macro is None


def test_queries_can_be_fewer_than_the_gallery():
    asked = np.zeros(120, dtype=bool)
    asked[:7] = True
    found = evaluate_table(
        table_of(modality=LABEL), {"v": clouds(LABEL)}, Protocol(labels=(("modality",),)), query_N=asked
    )[0]
    assert (found.queries, found.gallery, found.left_out.few_relevant) == (7, 120, 0)


def test_all_methods_answer_the_same_queries_and_an_equal_method_differs_by_nothing():
    vectors = clouds(LABEL, noise=0.8)
    found = evaluate_table(
        table_of(modality=LABEL), {"a": vectors, "b": vectors.copy()}, Protocol(labels=(("modality",),))
    )[0]
    assert {(c.micro.value, c.micro_p) for c in found.comparisons} == {(0.0, 1.0)}


def test_impossible_evaluations_say_why():
    table, protocol = (
        table_of(modality=["ct"] * 9, organ=["a", "b", "c"] * 3),
        Protocol(labels=(("modality",),)),
    )
    with pytest.raises(EvaluationError, match="1 class of modality in 9 rows"):
        evaluate_table(table, {"v": None}, protocol)
    with pytest.raises(EvaluationError, match=r"no query of organ counts.*9 with fewer than 30"):
        evaluate_table(table, {"v": None}, Protocol(labels=(("organ",),)))
    with pytest.raises(ManifestError, match="no column 'region'"):
        evaluate_table(table, {"v": None}, Protocol(labels=(("region",),)))
    with pytest.raises(OptionError, match="2 vectors for 9 images"):
        evaluate_table(table, {"v": np.eye(2, dtype=np.float32)}, Protocol(labels=(("organ",),), ks=(1,)))
