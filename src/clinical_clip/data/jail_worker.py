"""The parent's handle on one jailed decoder process."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

from clinical_clip.data.jail_wire import unpack, unpack_error
from clinical_clip.dicom.limits import Limits
from clinical_clip.errors import DecoderFailed

__all__ = ["Gone", "Reply", "Worker"]

_SLOTS = 8
"""Tasks a child may hold: one under way, others waiting, so that it never idles for the parent."""
_START_S = 60.0
_MAX_MESSAGE_BYTES = 1 << 22
_BYTES_PER_PIXEL = 4
_KEEP_BYTES = 8 << 20
_BOOT = (
    "import json, sys; path, *fds = json.loads(sys.argv[1]); sys.path[:] = path; "
    "from clinical_clip.data.jail_child import main; main(*fds)"
)


@dataclass(frozen=True, slots=True)
class Gone:
    """A child that will not answer any more, and why."""

    why: str
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What a child said: a value, or that memory ran out, or only that it is ready."""

    value: object = None
    memory: bool = False
    answers: bool = True


class Worker:
    """One child process with its socket and its slots of shared memory.

    Attributes:
        tasks: sent and unanswered, the one under way first.
        served: tasks that this process has answered.
        deadline: ``monotonic()`` time at which it is killed.
    """

    def __init__(self, function: Callable[[Any], object], limits: Limits) -> None:
        self.tasks: deque[Any] = deque()
        self.served = 0
        self.ready = False
        self._timeout_s = limits.timeout_s
        self._turn = 0
        slot_bytes = -(-(limits.max_pixels * _BYTES_PER_PIXEL) // mmap.PAGESIZE) * mmap.PAGESIZE
        memory_fd = _anonymous_memory(slot_bytes * _SLOTS)
        try:
            self._memory = mmap.mmap(memory_fd, 0)
            self._slots = [
                memoryview(self._memory)[at * slot_bytes : (at + 1) * slot_bytes] for at in range(_SLOTS)
            ]
            ours, theirs = socket.socketpair()
            with theirs:
                arguments = [sys.path, theirs.fileno(), memory_fd, os.getpid()]
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _BOOT, json.dumps(arguments)],
                    pass_fds=(theirs.fileno(), memory_fd),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=_environment(),
                )
            self.connection = Connection(ours.detach())
        finally:
            os.close(memory_fd)
        self.deadline = monotonic() + _START_S
        with contextlib.suppress(OSError):  # a child that is dead already is heard of soon enough
            self.connection.send((function, _SLOTS, limits.timeout_s, limits.memory_bytes))

    @property
    def has_room(self) -> bool:
        """It may be sent another task."""
        return len(self.tasks) < _SLOTS and (self.ready or not self.tasks)

    def send(self, task: object, payload: object) -> None:
        """Hand over a task. Whether the child still lives shows when it is listened to."""
        if not self.tasks and self.ready:
            self.deadline = monotonic() + self._timeout_s
        self.tasks.append(task)
        slot = self._turn % _SLOTS
        self._turn += 1
        with contextlib.suppress(OSError):
            self.connection.send((slot, payload))

    def restart_clock(self) -> None:
        """The next task begins now."""
        self.deadline = monotonic() + self._timeout_s if self.tasks else float("inf")

    def receive(self) -> Reply | Gone:
        """The child's next message."""
        try:
            reply = json.loads(self.connection.recv_bytes(_MAX_MESSAGE_BYTES))
        except (EOFError, OSError, ValueError):
            return Gone(self._epitaph())
        if "not ready" in reply:
            return Gone(str(reply["not ready"])[:500])
        if not self.ready:
            self.ready = True
            self.restart_clock()
            return Reply(answers=False)
        return Reply(memory=True) if "memory" in reply else Reply(value=self._take(reply))

    def _take(self, reply: dict[str, Any]) -> object:
        if "raised" in reply:
            hint = "check the file"
            return DecoderFailed(f"decoder raised {str(reply['raised'])[:80]}", hint=hint)
        if "error" in reply:
            return unpack_error(reply)
        at = (self._turn - len(self.tasks)) % _SLOTS
        try:
            value = unpack(reply, self._slots[at])
        except DecoderFailed as error:
            return error
        used = reply.get("used", 0)
        if isinstance(used, int) and used > _KEEP_BYTES and hasattr(mmap, "MADV_REMOVE"):
            size = len(self._slots[at])
            self._memory.madvise(mmap.MADV_REMOVE, at * size, size)
        return value

    def _epitaph(self) -> str:
        try:
            status = self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            return "stopped answering"
        if status >= 0:
            return f"ended with status {status}"
        return {9: "was killed", 14: "ran out of time", 24: "ran out of time"}.get(
            -status, f"crashed (signal {-status})"
        )

    def kill(self) -> None:
        """End the process and free its memory."""
        self._process.kill()
        self._process.wait()
        self.connection.close()
        for slot in self._slots:
            slot.release()
        self._memory.close()


def _anonymous_memory(size: int) -> int:
    """A descriptor of ``size`` bytes of sparse memory without a name, gone with its last user."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("clinical-clip-jail")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd


def _environment() -> dict[str, str]:
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
