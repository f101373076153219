"""A pool of killable decoder processes: a crash, a bomb or a hang costs one file, not the run.

Decoders are C code that reads bytes from strangers. Here they run in child processes with a cap on
memory and time. A child that dies, hangs or outgrows its cap is killed and replaced; its file comes
back as ``DecoderFailed``. Children are started afresh, never forked from a process that has threads,
and die with their parent, even when that is killed with SIGKILL.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from time import monotonic
from types import MappingProxyType, TracebackType
from typing import Generic, Self, TypeVar, cast

from clinical_clip.data.jail_worker import Gone, Reply, Worker
from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.errors import ClinicalClipError, DecoderFailed, ImageRejected, OptionError

__all__ = ["Jail"]

T = TypeVar("T")
R = TypeVar("R")

_MAX_FAILED_STARTS = 3


def _thaw(content: dict[object, object]) -> MappingProxyType[object, object]:
    return MappingProxyType(content)


ForkingPickler.register(MappingProxyType, lambda view: (_thaw, (dict(view),)))


@dataclass(slots=True)
class _Task(Generic[T]):
    number: int
    item: T
    retried: bool = False


@dataclass(slots=True)
class _Run(Generic[T]):
    """One pass over some items: what was taken, what is under way, what is done."""

    items: Iterator[T]
    done: queue.SimpleQueue[tuple[int, T, object] | BaseException | None]
    again: deque[_Task[T]] = field(default_factory=deque)
    taken: int = 0
    yielded: int = 0
    held_bytes: int = 0
    exhausted: bool = False
    stop: bool = False


class Jail(Generic[T, R]):
    """Applies one function to items in killable child processes.

    Args:
        function: an importable function, or a ``functools.partial`` of one. It may raise
            ``ImageRejected``; anything else that it raises becomes ``DecoderFailed``. It may return
            None, numbers, strings, arrays of plain numbers, and tuples, lists and dicts of these.
        workers: child processes.
        limits: ``timeout_s`` and ``memory_bytes`` (above its idle size) of each child, and
            ``max_pixels``, from which the shared memory of a result is sized (4 bytes a pixel).
        name: what to call an item in an error; by default its ``name``, or its last path component.
        lookahead: results that may wait for the consumer; no more items are read until it takes some.
        lookahead_bytes: the same in bytes of results.

    Use it as a context manager, or call ``close``: neither processes nor shared memory stay behind.

    >>> with Jail(abs, workers=1) as jail:
    ...     list(jail.imap([-1, 2]))
    [(-1, 1), (2, 2)]
    """

    def __init__(
        self,
        function: Callable[[T], R],
        workers: int = 2,
        limits: Limits = DEFAULT_LIMITS,
        *,
        name: Callable[[T], str] | None = None,
        lookahead: int = 64,
        lookahead_bytes: int = 256 << 20,
    ) -> None:
        if workers < 1 or lookahead < 1:
            raise OptionError("workers and lookahead must be at least 1", where="jail", hint="use 1 or more")
        home = getattr(getattr(function, "func", function), "__module__", "")
        try:
            if home == "__main__":
                raise AttributeError(home)
            ForkingPickler.dumps(function)
        except Exception:
            raise OptionError(
                "function must be importable by name",
                where="jail",
                hint="put it at the top of a module, not of a script",
            ) from None
        self._function = function
        self._limits = limits
        self._name = name or _name_of
        self._lookahead = lookahead
        self._lookahead_bytes = lookahead_bytes
        self._size = workers
        self._workers: list[Worker] = []
        self._failed_starts = 0
        self._runs: queue.SimpleQueue[_Run[T] | None] = queue.SimpleQueue()
        self._room = threading.Event()
        self._busy = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="jail", daemon=True)
        self._thread.start()

    def imap(self, items: Iterable[T], *, ordered: bool = True) -> Iterator[tuple[T, R | ImageRejected]]:
        """Each item with its result or its rejection; as many come out as go in.

        Streams: at most ``lookahead`` items are ahead of the consumer. ``items`` is read from another
        thread. Results come in the order of the items, or as they are done if not ``ordered``.
        One pass at a time; leaving the loop early abandons the rest.

        Raises:
            ClinicalClipError: the children cannot be started, or the jail is closed or in use.
        """
        if self._closed or not self._busy.acquire(blocking=False):
            state = "closed" if self._closed else "in use"
            raise ClinicalClipError(f"decoder jail is {state}", hint="open another jail")
        run: _Run[T] = _Run(items=iter(items), done=queue.SimpleQueue())
        try:
            self._runs.put(run)
            yield from self._collect(run, ordered=ordered)
        finally:
            run.stop = True
            self._room.set()
            self._busy.release()

    def call(self, item: T) -> R:
        """The result for one item.

        Raises:
            ImageRejected: what the function raised, or ``DecoderFailed``.
        """
        ((_, result),) = self.imap([item])
        if isinstance(result, ImageRejected):
            raise result
        return result

    def _collect(self, run: _Run[T], *, ordered: bool) -> Iterator[tuple[T, R | ImageRejected]]:
        waiting: dict[int, tuple[T, object]] = {}
        following = 0
        while (entry := run.done.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            number, item, result = entry
            waiting[number] = item, result
            while waiting and (not ordered or following in waiting):
                item, result = waiting.pop(following) if ordered else waiting.popitem()[1]
                following += 1
                run.yielded += 1
                run.held_bytes -= _size_of(result)
                self._room.set()
                yield item, cast("R | ImageRejected", result)

    def _serve(self) -> None:
        """The jail's own thread: it alone starts, feeds, hears and kills the children."""
        try:
            while (run := self._runs.get()) is not None:
                try:
                    self._pump(run)
                    run.done.put(None)
                except BaseException as error:
                    self._abandon()
                    run.done.put(error)
        finally:
            for worker in self._workers:
                worker.kill()

    def _pump(self, run: _Run[T]) -> None:
        while not run.stop and not self._closed:
            self._start_missing()
            starved = self._feed(run)
            waitable = [worker for worker in self._workers if worker.tasks or not worker.ready]
            if not any(worker.tasks for worker in self._workers) and not run.again:
                if run.exhausted:
                    return
                if starved:
                    self._room.wait(0.1)
                    self._room.clear()
                    continue
            self._listen(run, waitable, starved=starved)
        self._abandon()

    def _feed(self, run: _Run[T]) -> bool:
        """Hand out work; True if the consumer must take something before more may be read."""
        while True:
            idle = [worker for worker in self._workers if worker.has_room]
            if not idle:
                return False
            worker = min(idle, key=lambda one: len(one.tasks))
            if run.again:
                if run.again[0].retried and worker.tasks:  # a second try goes to a child of its own
                    return False
                task = run.again.popleft()
            elif run.exhausted:
                return False
            elif run.taken - run.yielded >= self._lookahead or run.held_bytes > self._lookahead_bytes:
                return True
            else:
                try:
                    task = _Task(run.taken, next(run.items))
                except StopIteration:
                    run.exhausted = True
                    return False
                run.taken += 1
            worker.send(task, task.item)

    def _listen(self, run: _Run[T], waitable: list[Worker], *, starved: bool) -> None:
        nearest_s = min((worker.deadline - monotonic() for worker in waitable), default=0.1)
        limit_s = 0.01 if starved else 0.1
        heard = wait([worker.connection for worker in waitable], max(0.0, min(nearest_s, limit_s)))
        for worker in waitable:
            if worker.connection in heard:
                self._hear(run, worker)
            elif worker.deadline <= monotonic():
                worker.kill()
                self._bury(run, worker, Gone("ran out of time", timed_out=True))

    def _hear(self, run: _Run[T], worker: Worker) -> None:
        answer = worker.receive()
        if isinstance(answer, Gone):
            worker.kill()
            self._bury(run, worker, answer)
        elif answer.memory:
            worker.kill()
            self._bury(run, worker, Gone("ran out of memory"))
        elif worker.ready and answer.answers:
            self._finish(run, cast("_Task[T]", worker.tasks.popleft()), answer)
            worker.served += 1
            worker.restart_clock()
        else:
            self._failed_starts = 0

    def _finish(self, run: _Run[T], task: _Task[T], answer: Reply) -> None:
        result = answer.value
        if isinstance(result, ImageRejected) and not result.where:
            result = type(result)(result.what, where=self._name(task.item), hint=result.hint)
        run.held_bytes += _size_of(result)
        run.done.put((task.number, task.item, result))

    def _bury(self, run: _Run[T], worker: Worker, cause: Gone) -> None:
        """Account for a dead child: its first task failed, or is tried once more in a clean child."""
        self._workers.remove(worker)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= _MAX_FAILED_STARTS:
                raise ClinicalClipError(
                    "decoder processes do not start",
                    where=cause.why,
                    hint="check the installation and memory",
                )
        tasks = cast("deque[_Task[T]]", worker.tasks)
        if tasks and worker.ready:
            first = tasks.popleft()
            if worker.served and not first.retried and not cause.timed_out:
                first.retried = True
                run.again.append(first)
            else:
                hint = "check the file; a valid one may need higher limits"
                self._finish(run, first, Reply(value=DecoderFailed(f"decoder {cause.why}", hint=hint)))
        run.again.extend(tasks)

    def _start_missing(self) -> None:
        while len(self._workers) < self._size:
            self._workers.append(Worker(self._function, self._limits))

    def _abandon(self) -> None:
        """Drop work under way: children that hold any are killed, the idle are kept."""
        for worker in [worker for worker in self._workers if worker.tasks]:
            worker.kill()
            self._workers.remove(worker)

    def close(self) -> None:
        """Kill the children and free the shared memory. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._room.set()
            self._runs.put(None)
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _name_of(item: object) -> str:
    return str(getattr(item, "name", "") or item).rsplit("/", 1)[-1][:200]


def _size_of(result: object) -> int:
    if isinstance(result, tuple | list):
        return sum(_size_of(part) for part in result)
    return int(getattr(result, "nbytes", 0))
