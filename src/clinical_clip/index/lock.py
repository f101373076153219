"""One writer at a time: an advisory lock that the kernel drops when its process dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from time import monotonic, sleep

from clinical_clip.errors import IndexBusy
from clinical_clip.index.storage import store_errors

__all__ = ["WriterLock"]

_PATIENCE_S = 2.0
"""How long to wait for a holder that is dead: a child that it was starting has the lock until its exec."""

_DYING_S = 0.1
"""How long a process that was killed may still look alive."""


class WriterLock:
    """Exclusive lock on an index's folder, held until ``release``.

    Raises:
        IndexBusy: another process (or another ``Library`` of this one) holds it; names its process id.
        StoreError: the lock file cannot be written (read-only file system, permissions).
    """

    def __init__(self, path: Path) -> None:
        with store_errors(str(path.parent)):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        start = monotonic()
        while not self._try():
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            if monotonic() - start < (_DYING_S if _lives(holder) else _PATIENCE_S):
                sleep(0.01)
                continue
            os.close(self._descriptor)
            raise IndexBusy(
                f"process {holder or 'unknown'} is writing to this index",
                where=str(path.parent),
                hint="wait for it to end, or stop it; searching stays possible",
            )
        self._note_holder()

    def _try(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _note_holder(self) -> None:
        """Write this process's id; a full disk must not stop a removal, so failure is harmless."""
        try:
            os.pwrite(self._descriptor, f"{os.getpid():<20}\n".encode("ascii"), 0)
        except OSError:
            return

    def release(self) -> None:
        """Let the next writer in. Harmless when called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _lives(holder: str) -> bool:
    """Whether the process with that id still runs; one that is killed and not yet reaped does not."""
    try:
        os.kill(int(holder), 0)
        return Path(f"/proc/{holder}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ValueError, ProcessLookupError):
        return False
    except OSError:  # another user's process, or no /proc
        return True
