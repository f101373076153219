"""The child's side of the decoder jail: one process, one file at a time, under limits it cannot lift."""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from clinical_clip.data.jail_wire import pack, pack_error
from clinical_clip.errors import ImageRejected

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1
_GRACE_S = 1.0


def main(socket_fd: int, memory_fd: int, parent_pid: int) -> None:
    """Serve requests from the socket until it closes. Called by the jail, never by hand."""
    _die_with_parent(parent_pid)
    connection = Connection(socket_fd)
    memory = mmap.mmap(memory_fd, 0)
    os.close(memory_fd)
    try:
        function, slots, timeout_s, memory_bytes = connection.recv()
        warnings.simplefilter("ignore")
        _one_thread()
        _confine(memory_bytes)
    except Exception as error:
        connection.send_bytes(json.dumps({"not ready": f"{type(error).__name__}: {error}"[:500]}).encode())
        return
    connection.send_bytes(b'{"ready": true}')
    view = memoryview(memory)
    slot_bytes = len(view) // slots
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            slot, payload = connection.recv()
            window = view[slot * slot_bytes : (slot + 1) * slot_bytes]
            # The kernel delivers SIGALRM's default action, death, even inside a stuck C decoder.
            signal.setitimer(signal.ITIMER_REAL, timeout_s + _GRACE_S)
            answer = _answer(function, payload, window)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send_bytes(answer)


def _answer(function: Callable[[Any], object], payload: object, slot: memoryview) -> bytes:
    try:
        return pack(function(payload), slot)
    except ImageRejected as error:
        return pack_error(error)
    except MemoryError:
        return b'{"memory": true}'
    except RecursionError:
        return json.dumps({"raised": "RecursionError"}).encode()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of a decoder written in Rust is no Exception
        return json.dumps({"raised": type(error).__name__}).encode()


def _die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when the parent dies, even by SIGKILL (Linux)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def _one_thread() -> None:
    """The pool is parallel already: one thread a process."""
    with contextlib.suppress(ImportError):
        import cv2

        cv2.setNumThreads(1)


def _confine(memory_bytes: int) -> None:
    """No core dumps, no files written, and ``memory_bytes`` above what the process holds now."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/statm") as statm:
            held_bytes = int(statm.read().split()[0]) * mmap.PAGESIZE
        cap_bytes = held_bytes + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (cap_bytes, cap_bytes))
