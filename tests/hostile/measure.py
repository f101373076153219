"""What a file costs a fresh decoder process, measured from inside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests.hostile.target import HOSTILE_LIMITS, within_two_seconds

from clinical_clip.data.picture import read_picture
from clinical_clip.data.picture_headers import sniff
from clinical_clip.dicom.pixels import read_frame

_MOST_RETURNED = 1 << 26


def read_pixels(path: Path) -> NDArray[np.uint8]:
    """The first frame or page."""
    with path.open("rb") as file:
        is_picture = sniff(file.read(512))[1]
    reader = read_picture if is_picture else read_frame
    with within_two_seconds():
        return reader(path, limits=HOSTILE_LIMITS)


def read_and_measure(path: Path) -> tuple[int, str, str, NDArray[np.uint8] | None]:
    """Peak bytes above idle, error code and text (empty for pixels), and the pixels."""
    from clinical_clip.errors import ImageRejected

    Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
    idle = _status("VmRSS")
    try:
        pixels = read_pixels(path)
    except ImageRejected as error:
        return _status("VmHWM") - idle, type(error).__name__, str(error), None
    return _status("VmHWM") - idle, "", "", pixels


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0
