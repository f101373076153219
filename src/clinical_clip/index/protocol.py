"""What a vector engine must do. The catalogue is the truth; an engine follows it and can be rebuilt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Matches", "Position", "Snapshot", "TieNames", "VectorIndex", "VectorRows"]

TieNames = Callable[[NDArray[np.int64]], Sequence[str]]
"""From slots (M,) to their image ids: asked only for images whose rounded scores are equal."""

VectorRows = tuple[NDArray[np.int64], NDArray[np.float16]]
"""Slots (N,) ascending, and their stored vectors (N, D)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """A point in the catalogue's history: the commit's number and its random token."""

    seq: int
    token: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Matches:
    """The nearest stored vectors of one query.

    Attributes:
        slots: int64 (K,), nearest first.
        scores: float64 (K,), cosines in [-1, 1] rounded to 1e-6, never rising; equal ones are in the
            order of their image ids.
    """

    slots: NDArray[np.int64]
    scores: NDArray[np.float64]


class Snapshot(Protocol):
    """What an engine held at one moment: it does not change while it is searched."""

    @property
    def slots(self) -> NDArray[np.int64]:
        """int64 (N,) ascending: what each element of a mask stands for; removed ones are negative."""
        ...

    @property
    def count(self) -> int:
        """How many vectors can be found."""
        ...

    def search(
        self,
        queries_QD: NDArray[np.float64],
        k: int,
        *,
        mask: NDArray[np.bool_] | None = None,
        tie_names: TieNames,
    ) -> list[Matches]:
        """The ``k`` nearest of each unit query, or all there are; ``mask`` (N,) over ``slots``.

        Raises:
            OptionError: ``k`` below 1, or a mask of another length.
        """
        ...


class VectorIndex(Protocol):
    """An engine that finds the stored vectors nearest to a query.

    Vectors are float16 (N, D) of norm 1; a slot (int64, ascending in time, never reused) names each.
    """

    width: int

    @property
    def position(self) -> Position:
        """How far in the catalogue's history this engine has come."""
        ...

    @property
    def slots(self) -> NDArray[np.int64]:
        """int64 (N,) ascending: what each element of a search mask stands for; removed ones are negative."""
        ...

    @property
    def count(self) -> int:
        """How many vectors can be found."""
        ...

    def upsert(self, slots: NDArray[np.int64], vectors_ND: NDArray[np.float16]) -> None:
        """Add vectors under new slots, all above those held. Can be found at once."""
        ...

    def remove(self, slots: NDArray[np.int64]) -> None:
        """Forget these slots; unknown ones are ignored. Cannot be found from now on."""
        ...

    def flush(self, position: Position) -> None:
        """Make what was upserted and removed durable, as of ``position``."""
        ...

    def snapshot(self) -> Snapshot:
        """What can be searched now."""
        ...

    def fetch(self, slots: NDArray[np.int64]) -> NDArray[np.float16]:
        """Stored vectors (M, D) of slots that are held."""
        ...

    def verify(self) -> list[str]:
        """What is wrong with the engine's own files, one sentence each; empty when nothing is."""
        ...

    def rebuild(self, rows: Iterable[VectorRows], position: Position) -> None:
        """Replace everything by ``rows`` (ascending slots), atomically."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...
