"""Being told to stop: SIGTERM and SIGUSR1 become a flag that the loop reads between steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["REQUEUE_STATUS", "StopFlag", "stop_on_signals"]

REQUEUE_STATUS = 75
"""Exit status of a run that was told to stop and has written its checkpoint (``EX_TEMPFAIL``)."""

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopFlag:
    """Whether a signal has come."""

    def __init__(self) -> None:
        self.raised = False

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.raised = True


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Catch the signals inside the block; outside of the main thread nothing is caught."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.signal(number, flag._raise) for number in _SIGNALS}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
