"""Random histories of adding, removing, reopening and rebuilding, against a dict."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numpy.typing import NDArray

from clinical_clip.index import Library
from clinical_clip.search import Query, search
from tests.index.make import brute_force, create, record, unit

POOL = unit(40, width=8, seed=4)
IMAGES = st.lists(st.tuples(st.integers(0, 14), st.integers(0, 39)), max_size=8)


class Histories(RuleBasedStateMachine):
    """``model`` holds, by id, what the library must hold; the reader has seen up to ``seen``."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.library = create(self.root / "lib", width=8)
        self.reader = Library.open(self.root / "lib")
        self.model: dict[str, NDArray[np.float16]] = {}
        self.seen = dict(self.model)

    @rule(images=IMAGES)
    def add(self, images: list[tuple[int, int]]) -> None:
        first: dict[str, NDArray[np.float16]] = {}
        for number, vector in images:
            first.setdefault(record(number).image_id, POOL[vector].astype("<f2"))
        wanted = {
            "added": len(first.keys() - self.model.keys()),
            "updated": sum(
                image_id in self.model and self.model[image_id].tobytes() != vector.tobytes()
                for image_id, vector in first.items()
            ),
        }
        result = self.library.add([(record(number), POOL[vector]) for number, vector in images])
        assert {"added": result.added, "updated": result.updated} == wanted
        assert result.added + result.updated + result.unchanged == len(images)
        self.model.update(first)

    @rule(numbers=st.lists(st.integers(0, 16), max_size=6))
    def remove(self, numbers: list[int]) -> None:
        ids = {record(number).image_id for number in numbers}
        assert self.library.remove(ids) == len(ids & self.model.keys())
        self.model = {image_id: vector for image_id, vector in self.model.items() if image_id not in ids}

    @rule()
    def rebuild(self) -> None:
        self.library.rebuild()

    @rule()
    def reopen(self) -> None:
        self.library.close()
        self.library = Library.open(self.root / "lib", writable=True)
        assert self.library.notices == []

    @rule()
    def refresh(self) -> None:
        self.reader.refresh()
        self.seen = dict(self.model)
        assert self.reader.notices == []
        assert self.reader.verify().ok

    @rule(vector=st.integers(0, 39), k=st.integers(1, 20))
    def ask(self, vector: int, k: int) -> None:
        query = POOL[vector].astype(np.float64)
        hits = search(self.library, Query(vectors=query, k=k)).hits
        assert [(hit.image_id, hit.score) for hit in hits] == brute_force(self.model, query, k)

    @invariant()
    def holds_the_model(self) -> None:
        assert len(self.library) == len(self.model)
        assert set(self.library.ids()) == set(self.model)
        assert len(self.reader) == len(self.seen)
        report = self.library.verify(self.model)
        assert report.ok, report.problems

    def teardown(self) -> None:
        if hasattr(self, "library"):
            self.library.close()
            self.reader.close()
            shutil.rmtree(self.root)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=12, stateful_step_count=20, deadline=None, derandomize=True)
