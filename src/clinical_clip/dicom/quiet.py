"""Keep the warnings of pydicom and others out of sight: their texts quote what the file says of a patient."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet"]

_LOGS = [logging.getLogger(name) for name in ("pydicom", "nibabel.global")]
_lock = threading.Lock()
_depth = 0
_saved: warnings.catch_warnings[None] | None = None


@contextmanager
def quiet() -> Iterator[None]:
    """Drop all warnings inside, and what pydicom and nibabel log.

    Safe with many threads: the last to leave restores the filters. (``warnings.catch_warnings`` alone is
    not: threads would restore each other's.)

    >>> with quiet():
    ...     warnings.warn("not shown", stacklevel=1)
    """
    global _depth, _saved  # noqa: PLW0603 - the warnings module's own state is global
    with _lock:
        if _depth == 0:
            _saved = warnings.catch_warnings()
            _saved.__enter__()
            warnings.simplefilter("ignore")
            for log in _LOGS:
                log.disabled = True
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0 and _saved is not None:
                _saved.__exit__(None, None, None)
                _saved = None
                for log in _LOGS:
                    log.disabled = False
