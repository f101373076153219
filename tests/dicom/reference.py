"""What a frame should look like, by pydicom's own functions and nothing of ours."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian


def real_files() -> list[Path]:
    """pydicom's own test files and, where installed, those of pydicom-data."""
    roots = [Path(pydicom.__file__).parent / "data" / "test_files"]
    extra = importlib.util.find_spec("data_store")
    if extra is not None and extra.origin is not None:
        roots.append(Path(extra.origin).parent)
    return sorted(path for root in roots for path in root.rglob("*") if path.is_file())


def frame_by_pydicom(path: Path, frame: int) -> tuple[NDArray[np.uint8], str] | None:
    """The frame and where its contrast comes from; None where pydicom's functions cannot say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        if dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            stored = pydicom.dcmread(path).pixel_array
        else:
            stored = pixel_array(path, index=frame)
        _lift_functional_groups(dataset, frame)
        return _shown(stored, dataset)


def _lift_functional_groups(dataset: Dataset, frame: int) -> None:
    """Put the frame's own rescale and window where pydicom's functions look for them."""
    shared = dataset.get("SharedFunctionalGroupsSequence", [])[:1]
    own = dataset.get("PerFrameFunctionalGroupsSequence", [])[frame : frame + 1]
    for group in [*shared, *own]:
        for keyword in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in group.get(keyword, [])[:1]:
                dataset.update(item)


def _shown(stored: NDArray[np.generic], dataset: Dataset) -> tuple[NDArray[np.uint8], str] | None:
    photometric = dataset.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        painted = apply_color_lut(stored, dataset)
        return (painted >> 8 if painted.dtype == np.uint16 else painted).astype(np.uint8), "colour"
    if stored.ndim == 3:
        return _scaled(stored.astype(float), 0, 2 ** int(dataset.BitsStored) - 1), "colour"
    values = apply_modality_lut(stored, dataset)
    shown = apply_voi_lut(values, dataset)
    low, high = _range(dataset)
    if dataset.get("VOILUTSequence"):
        low, high, source = 0.0, 2.0 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1, "lut"
    elif "WindowCenter" in dataset and dataset.WindowCenter is not None:
        source = "window"
    elif int(dataset.get("BitsStored", 99)) <= 8 and "RescaleSlope" not in dataset:
        source = "full-range"
    else:
        source = "percentiles"
        flat = np.sort(values[np.isfinite(values)], axis=None).astype(float)
        low, high = (flat[int(np.ceil(flat.size * p / 100)) - 1] for p in (0.5, 99.5))
        if low == high:
            low, high = flat[0], flat[-1]
    grey = _scaled(shown.astype(float), low, high)
    return (255 - grey if photometric == "MONOCHROME1" else grey), source


def _range(dataset: Dataset) -> tuple[float, float]:
    """What pydicom's apply_windowing maps to (PS3.3 C.11.2.1.2.1)."""
    bits = int(dataset.get("BitsStored", dataset.BitsAllocated))
    low, high = (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.get("PixelRepresentation") else (0, 2**bits - 1)
    )
    if dataset.get("ModalityLUTSequence"):
        return 0, 2 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None:
        return low, high
    return low * float(slope) + float(intercept), high * float(slope) + float(intercept)


def _scaled(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    with np.errstate(invalid="ignore"):
        scaled = np.floor((values - low) / ((high - low) or 1) * 255 + 0.5)
    return np.clip(np.nan_to_num(scaled), 0, 255).astype(np.uint8)
