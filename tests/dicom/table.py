"""The table of real files in ``docs/guide/pixels.md``.

python -m tests.dicom.table >> docs/guide/pixels.md
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
from tests.dicom.reference import frame_by_pydicom, real_files

from clinical_clip.dicom.decode import TRANSFER_SYNTAXES
from clinical_clip.dicom.image import read_image_pixel
from clinical_clip.dicom.limits import DEFAULT_LIMITS
from clinical_clip.dicom.part10 import open_part10
from clinical_clip.dicom.pixels import render_frame
from clinical_clip.errors import ImageRejected

HEAD = "| file | transfer syntax | bits stored / allocated | photometric | frames | contrast | identical |"


def rows() -> Iterator[str]:
    """A row for each real file that we or pydicom decode: first and last frame compared."""
    logging.disable(logging.CRITICAL)
    yield HEAD
    yield "|---|---|---|---|---|---|---|"
    for path in real_files():
        try:
            file = open_part10(path, DEFAULT_LIMITS)
            image = read_image_pixel(file, DEFAULT_LIMITS)
            frames = sorted({0, image.n_frames - 1})
            ours = [render_frame(path, frame, square=False) for frame in frames]
        except ImageRejected:
            continue
        verdict = "yes"
        for frame, rendered in zip(frames, ours, strict=True):
            try:
                expected = frame_by_pydicom(path, frame)
                assert expected is not None
                same = np.array_equal(rendered.pixels, expected[0])
                verdict = verdict if same else "**differs**"
            except Exception:
                verdict = "not read by pydicom"
        syntax = TRANSFER_SYNTAXES[file.transfer_syntax]
        bits = f"{image.bits_stored} / {image.bits_allocated}{', signed' if image.signed else ''}"
        cells = (path.name, syntax, bits, image.photometric, image.n_frames, ours[0].source, verdict)
        yield "| " + " | ".join(str(cell) for cell in cells) + " |"


if __name__ == "__main__":
    print("\n".join(rows()))
