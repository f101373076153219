"""Functions that the jail's tests run in its children."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from clinical_clip.errors import CorruptImage


def square(value: int) -> int:
    return value * value


def picture(side: int) -> NDArray[np.uint8]:
    return np.arange(side * side * 3, dtype=np.uint32).astype(np.uint8).reshape(side, side, 3)


def pid(_: object) -> int:
    return os.getpid()


def slow(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def echo(value: object) -> object:
    return value


def keys_of(value: Mapping[str, object]) -> list[str]:
    return list(value)


def misbehave(how: str) -> object:
    """What a bad file can do to a decoder."""
    if how == "segfault":
        ctypes.string_at(0)
    if how == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hang":
        while True:
            pass
    if how == "hold the GIL":
        ctypes.PyDLL(None).sleep(60)
    if how == "exit":
        os._exit(3)
    if how == "memory":
        return len(bytearray(8 << 30))
    if how == "python":
        raise KeyError("a patient's name")
    if how == "typed":
        raise CorruptImage("damaged", where="x.dcm", hint="throw it away")
    if how == "nowhere":
        raise CorruptImage("damaged")
    if how == "unsendable":
        return object()
    if how == "too large":
        return np.zeros(100_000_000, np.uint8)
    if how == "write":
        with open("/tmp/clinical-clip-jail-test", "w") as file:
            file.write("x")
    return how


def zeros224(_: object) -> NDArray[np.uint8]:
    return np.zeros((224, 224, 3), np.uint8)
