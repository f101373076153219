from __future__ import annotations

import numpy as np
import pytest
import torch

from clinical_clip.train.recall import precision_at, recall_at


@pytest.mark.parametrize("k", [1, 5, 10])
def test_against_sorting_in_numpy(k: int) -> None:
    rng = np.random.default_rng(k)
    query, gallery = rng.normal(size=(2500, 8)), rng.normal(size=(2500, 8))
    answers = [f"caption {number % 1900}" for number in range(2500)]
    order = np.argsort(-(query @ gallery.T), axis=1)[:, :k]
    hits = [any(answers[j] == answers[i] for j in order[i]) for i in range(2500)]
    found = recall_at(torch.from_numpy(query), torch.from_numpy(gallery), answers, k)
    assert found == pytest.approx(np.mean(hits), abs=1e-9)


def test_precision_leaves_out_the_query_and_the_unlabelled() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1300, 6))
    labels = [["", "ct", "mr", "us"][number % 4] for number in range(1300)]
    kept = [number for number in range(1300) if labels[number]]
    scores = image[kept] @ image[kept].T
    np.fill_diagonal(scores, -np.inf)
    order = np.argsort(-scores, axis=1)[:, :5]
    names = np.array([labels[number] for number in kept])
    expected = (names[order] == names[:, None]).mean()
    assert precision_at(torch.from_numpy(image), labels, 5) == pytest.approx(expected, abs=1e-9)


def test_too_few_labels_give_none() -> None:
    assert precision_at(torch.eye(3), ["a", "a", "a"], 1) is None
    assert precision_at(torch.eye(3), ["a", "b", ""], 2) is None
