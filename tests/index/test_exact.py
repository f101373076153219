from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from clinical_clip.errors import OptionError
from clinical_clip.index import Position, scan
from clinical_clip.index.view import View
from tests.index.make import brute_force, unit


def view_of(vectors: NDArray[np.float16], *, split: int | None = None, removed: tuple[int, ...] = ()) -> View:
    """A view over slots 10, 12, 14, ..., part of them in the tail, some of them removed."""
    split = len(vectors) if split is None else split
    slots = 10 + 2 * np.arange(len(vectors))
    slots[list(removed)] *= -1
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return View(
        mapped_ND=vectors[:split],
        tail_ND=vectors[split:],
        slots=slots,
        count=len(vectors) - len(removed),
        deviation=float(np.abs(norms - 1).max(initial=0)),
        position=Position(seq=1, token=""),
    )


def name(slot: int) -> str:
    """Ids that do not sort as the slots do."""
    return f"{(slot * 7919) % 10_007:05d}-{slot}"


def names(slots: NDArray[np.int64]) -> list[str]:
    return [name(slot) for slot in slots.tolist()]


def stored(view: View, mask: NDArray[np.bool_] | None = None) -> dict[str, NDArray[np.float16]]:
    vectors = np.concatenate([view.mapped_ND, view.tail_ND])
    return {
        name(int(slot)): vectors[row]
        for row, slot in enumerate(view.slots)
        if slot > 0 and (mask is None or mask[row])
    }


def check(view: View, queries: NDArray[np.float64], k: int, mask: NDArray[np.bool_] | None = None) -> None:
    """The search's answers are those of brute force, ids and scores."""
    found = view.search(queries, k, mask=mask, tie_names=names)
    assert len(found) == len(queries)
    for query, matches in zip(queries, found, strict=True):
        wanted = brute_force(stored(view, mask), query, k)
        assert list(zip(names(matches.slots), matches.scores.tolist(), strict=True)) == wanted


def queries_of(count: int, width: int, seed: int = 5) -> NDArray[np.float64]:
    vectors = np.random.default_rng(seed).standard_normal((count, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("rows", [1, 2, 63, 700, 20_000])
@pytest.mark.parametrize("width", [3, 64])
def test_random_vectors(rows: int, width: int) -> None:
    view = view_of(unit(rows, width=width).astype("<f2"))
    check(view, queries_of(3, width), 10)


def near_duplicates(random: np.random.Generator) -> NDArray[np.float64]:
    """All within about 1e-3 of one another: far more rows than k lie within the fast pass's error."""
    return np.ones((3000, 32)) + 1e-3 * random.standard_normal((3000, 32))


def repeated(random: np.random.Generator) -> NDArray[np.float64]:
    """Five vectors, six hundred times each: ties everywhere."""
    return np.tile(random.standard_normal((5, 32)), (600, 1))


def opposite(random: np.random.Generator) -> NDArray[np.float64]:
    """Every cosine to the first query is negative."""
    vectors = random.standard_normal((3000, 32))
    query = queries_of(1, 32)[0]
    return vectors - (np.abs(vectors @ query) + vectors @ query + 0.1)[:, None] * query


def sparse(random: np.random.Generator) -> NDArray[np.float64]:
    """Values that float16 holds only as subnormals, beside one that carries the norm."""
    vectors = 1e-6 * random.standard_normal((3000, 32))
    vectors[:, 3] = 1
    return vectors


@pytest.mark.parametrize("make", [near_duplicates, repeated, opposite, sparse])
@pytest.mark.parametrize("k", [1, 10, 200])
def test_hard_vectors(make: Callable[[np.random.Generator], NDArray[np.float64]], k: int) -> None:
    vectors = make(np.random.default_rng(3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    view = view_of(vectors.astype("<f2"), split=1800, removed=(0, 5, 1799, 1800, 2999))
    queries = np.concatenate([queries_of(1, 32), vectors[1:2], -vectors[1:2]])
    check(view, queries, k)
    check(view, np.concatenate([queries, queries]), k)  # the batch's way


@pytest.mark.parametrize("share", [0.001, 0.05, 0.12, 0.5, 0.99])
def test_masks(share: float) -> None:
    view = view_of(unit(4000, width=48).astype("<f2"), split=3000, removed=(3, 3999))
    mask = np.random.default_rng(1).random(4000) < share
    check(view, queries_of(2, 48), 7, mask)
    check(view, queries_of(9, 48), 7, mask)


def test_more_than_there_are_and_prefixes() -> None:
    view = view_of(unit(500, width=16).astype("<f2"), removed=(1,))
    query = queries_of(1, 16)
    everything = view.search(query, 10**9, tie_names=names)[0]
    assert len(everything.slots) == 499
    for k in (1, 5, 15, 400):
        assert view.search(query, k, tie_names=names)[0].slots.tolist() == everything.slots[:k].tolist()


def test_nothing_eligible() -> None:
    view = view_of(unit(50, width=16).astype("<f2"))
    empty = view.search(queries_of(2, 16), 5, mask=np.zeros(50, bool), tie_names=names)
    assert [len(matches.slots) for matches in empty] == [0, 0]
    assert len(view_of(np.empty((0, 16), "<f2")).search(queries_of(1, 16), 5, tie_names=names)[0].slots) == 0


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one(k: int) -> None:
    with pytest.raises(OptionError, match="at least one"):
        view_of(unit(5).astype("<f2")).search(queries_of(1, 24), k, tie_names=names)


def test_mask_of_another_length() -> None:
    with pytest.raises(OptionError, match="not of this index"):
        view_of(unit(5).astype("<f2")).search(queries_of(1, 24), 1, mask=np.ones(4, bool), tie_names=names)


@pytest.mark.parametrize("width", [1, 7, 64, 512, 2048])
def test_the_fast_pass_keeps_within_its_bound(width: int) -> None:
    stored_ND = unit(300, width=width).astype("<f2")
    rows_ND = stored_ND.astype(np.float64)
    queries = queries_of(5, width)
    for query in queries:
        scores, bound = scan.single_scores([stored_ND], query)
        assert np.abs(scores - rows_ND @ query).max() <= bound * np.linalg.norm(rows_ND, axis=1).max()
    scores, bound = scan.batch_scores([stored_ND], queries)
    assert np.abs(scores - queries @ rows_ND.T).max() <= bound
