"""Transfer syntaxes of which no real file is at hand: codestreams made by other people's encoders."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLossless
from tests.dicom.build import dataset, save

from clinical_clip.dicom.decode import TRANSFER_SYNTAXES
from clinical_clip.dicom.pixels import read_frame

RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16) * 16

# RAMP by imagecodecs 2026.3.6: OpenHTJ2K, reversible; and lossless JPEG with predictor 6
HTJ2K = (
    "/0//UQApQAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQ"
    "kJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAH4AAf+TwAAmSfYFB3QAAMAAEsAAEwAiAYd0AEbyA4d0"
    "AMAAE0AAE4AQyAECdAAe6ZEAw1QAwAAVEAAFYIZhGKpwgnUAfvTDDz/+wFKB7LYAwAArIAAWkO7u7u7nwKenp8J4AP79/f39/f39/Yxg"
    "e/Yxgey6AP/Z"
)
LOSSLESS = (
    "/9j/xAAXAAEBAQEAAAAAAAAAAAAAAAAICQUM/8MACwwAEAAQAQARAP/aAAgBAAAGAADn/wDQ0NDQ0NDQ0NDQ0NDQ0NCgCAQCAQCAQCAQ"
    "CAQCAQCAQCAoAgEAgEAgEAgEAgEAgEAgEAgKAIBAIBAIBAIBAIBAIBAIBAICgCAQCAQCAQCAQCAQCAQCAQCAoAgEAgEAgEAgEAgEAgEA"
    "gEAgKAIBAIBAIBAIBAIBAIBAIBAICgCAQCAQCAQCAQCAQCAQCAQCAoAgEAgEAgEAgEAgEAgEAgEAgKAIBAIBAIBAIBAIBAIBAIBAICgC"
    "AQCAQCAQCAQCAQCAQCAQCAoAgEAgEAgEAgEAgEAgEAgEAgKAIBAIBAIBAIBAIBAIBAIBAICgCAQCAQCAQCAQCAQCAQCAQCAoAgEAgEAg"
    "EAgEAgEAgEAgEAgKAIBAIBAIBAIBAIBAIBAIBAIA/9k="
)


@pytest.mark.parametrize(
    ("syntax", "codestream"),
    [(f"1.2.840.10008.1.2.4.{number}", HTJ2K) for number in (201, 202, 203)] + [(JPEGLossless, LOSSLESS)],
    ids=lambda value: TRANSFER_SYNTAXES.get(value, ""),
)
def test_a_foreign_codestream_comes_back_exactly(tmp_path: Path, syntax: str, codestream: str) -> None:
    made = dataset(RAMP, syntax=syntax, BitsStored=12, WindowCenter=2048, WindowWidth=4096)
    made.PixelData = encapsulate([base64.b64decode(codestream)])
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    np.testing.assert_array_equal(read_frame(save(made, tmp_path)), np.floor(RAMP / 4095 * 255 + 0.5))
