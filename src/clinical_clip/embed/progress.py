"""Rate and time left of a run whose total becomes known on the way."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from time import monotonic
from typing import Generic, TypeVar, cast

__all__ = ["Counter", "Progress", "scan_ahead"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        done: images encoded; ``rejected``: files or frames refused; ``skipped``: done before.
        seen: what the scan has found so far; ``total_known``: the scan has ended.
        elapsed_s: since the start.
    """

    done: int
    rejected: int
    skipped: int
    seen: int
    total_known: bool
    elapsed_s: float

    @property
    def rate_per_s(self) -> float:
        """Images encoded a second."""
        return self.done / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds left, or None while the total or the rate is unknown."""
        left = self.seen - self.done - self.rejected - self.skipped
        return left / self.rate_per_s if self.total_known and self.rate_per_s > 0 else None


class Counter:
    """Counts a run; ``read`` gives a consistent ``Progress``."""

    def __init__(self) -> None:
        self.done = 0
        self.rejected = 0
        self.skipped = 0
        self.seen = 0
        self.total_known = False
        self._start = monotonic()

    def read(self) -> Progress:
        """The state now."""
        elapsed_s = monotonic() - self._start
        return Progress(self.done, self.rejected, self.skipped, self.seen, self.total_known, elapsed_s)


def scan_ahead(items: Iterable[T], counter: Counter) -> Iterator[T]:
    """Iterate ``items`` in a thread of its own, so that the total is known long before the end.

    Records are small; only they wait in memory. An error of the source is raised here, in its place.
    """
    return iter(_ScanAhead(items, counter))


class _ScanAhead(Generic[T]):
    def __init__(self, items: Iterable[T], counter: Counter) -> None:
        self._queue: SimpleQueue[tuple[str, object]] = SimpleQueue()
        self._stopped = False
        self._counter = counter
        self._thread = threading.Thread(target=self._scan, args=(items,), name="scan", daemon=True)

    def __iter__(self) -> Iterator[T]:
        self._thread.start()
        try:
            while True:
                kind, value = self._queue.get()
                if kind == "item":
                    yield cast(T, value)
                elif kind == "error":
                    raise cast(BaseException, value)
                else:
                    return
        finally:
            self._stopped = True

    def _scan(self, items: Iterable[T]) -> None:
        try:
            for item in items:
                if self._stopped:
                    return
                self._counter.seen += 1
                self._queue.put(("item", item))
            self._counter.total_known = True
            self._queue.put(("end", None))
        except BaseException as error:
            self._queue.put(("error", error))
