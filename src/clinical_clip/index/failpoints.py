"""Named steps at which a test can kill the process, so that every crash window is really exercised.

``CLINICAL_CLIP_FAILPOINT=matrix.before-rename`` kills the process with SIGKILL at the first pass of that
step; ``matrix.before-rename:3`` at the third. Unset, a step costs one comparison.
"""

from __future__ import annotations

import os
import signal

__all__ = ["STEPS", "reach"]

STEPS = (
    "add.begun",
    "add.before-commit",
    "add.after-commit",
    "remove.before-commit",
    "remove.after-commit",
    "matrix.before-append",
    "matrix.half-appended",
    "matrix.appended",
    "matrix.before-zero",
    "matrix.half-zeroed",
    "matrix.zeroed",
    "rebuild.begun",
    "rebuild.before-fsync",
    "rebuild.before-switch",
    "rebuild.switched",
    "sidecar.temp-written",
    "sidecar.before-rename",
    "sidecar.renamed",
    "flush.done",
)
"""Every step, in the rough order in which a write passes them."""

_name, _, _nth = os.environ.get("CLINICAL_CLIP_FAILPOINT", "").partition(":")
_remaining = int(_nth or "1")


def reach(step: str) -> None:
    """Pass ``step``: kill this process there if it is the armed one."""
    if not _name or step != _name:
        return
    global _remaining  # noqa: PLW0603
    _remaining -= 1
    if _remaining == 0:
        os.kill(os.getpid(), signal.SIGKILL)
