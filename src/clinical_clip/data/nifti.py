"""Axial slices of a NIfTI-1 or NIfTI-2 volume as 8-bit pixels.

The volume is turned to RAS+ by its affine, cut across the inferior-superior axis and shown as a radiologist
holds an axial slice: the patient's right on the left, anterior on top. NIfTI carries no display window, so
one rule serves all: the 0.5th to the 99.5th percentile of the volume's finite voxels become 0 to 255. Of a
volume with a time axis the first time point is read.
"""

from __future__ import annotations

import gzip
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.dicom.quiet import quiet
from clinical_clip.errors import CorruptImage, ImageRejected, LimitExceeded, UnsupportedImage

__all__ = ["read_slice", "slice_count"]

_PERCENTILES = (0.5, 99.5)
_T = TypeVar("_T")
_SAMPLE = 1_000_000
_CACHE_BYTES = 256 << 20
_RGB = {128: 3, 2304: 4}
"""NIfTI datatype codes of colour volumes, and their bytes a voxel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """Where the first volume's voxels are in the file, and how its axes lie in the patient."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    channels: int
    offset: int
    slope: float
    intercept: float
    orientation: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]

    @property
    def n_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize * self.channels

    @property
    def n_slices(self) -> int:
        upwards = int(np.argwhere(self.orientation[:, 0] == 2)[0, 0])
        return self.shape[upwards]


def slice_count(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> int:
    """Axial slices of the volume at ``path``, from its header alone.

    Raises:
        CorruptImage, UnsupportedImage, LimitExceeded: as ``read_slice``.
    """
    return _guarded(path, lambda: _read_layout(path, limits)).n_slices


def read_slice(path: Path, index: int, *, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Axial slice ``index``, from 0 at the inferior end: (H, W) grey, or (H, W, 3) of a colour volume.

    The volume is read once and kept, as 8-bit, for the slices that follow (256 MiB at most are kept).

    Raises:
        CorruptImage: truncated or inconsistent bytes, or no such slice.
        UnsupportedImage: complex or extended-precision voxels.
        LimitExceeded: a volume larger than half of ``memory_bytes``, or a slice past ``max_pixels``.
    """
    volume, spacing_mm = _guarded(path, lambda: _cached_volume(path, limits))
    if not 0 <= index < volume.shape[2]:
        raise CorruptImage(
            f"no slice {index}: the volume has {volume.shape[2]}",
            where=path.name,
            hint="scan the source again",
        )
    shown = np.swapaxes(volume[::-1, ::-1, index], 0, 1)
    return _square_pixels(np.ascontiguousarray(shown), spacing_mm, limits)


def _guarded(path: Path, read: Callable[[], _T]) -> _T:
    try:
        with quiet():
            return read()
    except ImageRejected as error:
        raise type(error)(error.what, where=path.name, hint=error.hint) from None
    except Exception as error:
        raise CorruptImage(
            f"not a NIfTI volume ({type(error).__name__})", where=path.name, hint="fetch the file again"
        ) from None


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else path.open("rb")  # type: ignore[return-value]


def _read_layout(path: Path, limits: Limits) -> _Layout:
    import nibabel as nib

    with _open(path) as file:
        head = file.read(540)
    kind = (
        nib.Nifti2Header if head[4:8] == b"n+2\0" or head[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else None
    )
    kind = kind or nib.Nifti1Header
    header = kind(head[: kind.sizeof_hdr], check=True)
    dims = [int(one) for one in header["dim"]]
    if not 1 <= dims[0] <= 7 or min(dims[1 : 1 + dims[0]]) < 1:
        raise CorruptImage("impossible dimensions", hint="fetch the file again")
    x, y, z = [*dims[1 : 1 + min(dims[0], 3)], 1, 1][:3]
    code = int(header["datatype"])
    dtype = np.dtype(np.uint8) if code in _RGB else header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise UnsupportedImage("voxels that are not plain numbers", hint="convert the volume to float32")
    slope, intercept = header.get_slope_inter()
    affine = header.get_best_affine()
    orientation = nib.orientations.io_orientation(affine)
    if not np.isfinite(orientation).all():
        raise CorruptImage("an orientation without three axes", hint="repair the affine")
    layout = _Layout(
        shape=(x, y, z),
        dtype=dtype,
        channels=_RGB.get(code, 1),
        offset=int(header.get_data_offset()),
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        orientation=orientation,
        spacing_mm=_spacing_mm(affine),
    )
    _check(layout, limits)
    return layout


def _spacing_mm(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Distances between voxel centres along the array's axes; ones where they make no sense."""
    x, y, z = (float(one) for one in np.sqrt(np.square(affine[:3, :3]).sum(axis=0)))
    plausible = all(1e-3 < one < 1e3 for one in (x, y, z))
    return (x, y, z) if plausible else (1.0, 1.0, 1.0)


def _check(layout: _Layout, limits: Limits) -> None:
    if layout.n_bytes > limits.memory_bytes // 2:
        raise LimitExceeded(f"a volume of {layout.n_bytes:,} bytes", hint="raise memory_bytes")
    if layout.n_slices > limits.max_frames:
        raise LimitExceeded(f"{layout.n_slices:,} slices", hint="raise max_frames")
    if not 0 <= layout.offset <= limits.max_header_bytes:
        raise LimitExceeded(f"{layout.offset:,} bytes before the voxels", hint="raise max_header_bytes")


_cache: OrderedDict[tuple[str, int, int], tuple[NDArray[np.uint8], tuple[float, float]]] = OrderedDict()
_cache_lock = threading.Lock()


def _cached_volume(path: Path, limits: Limits) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """The volume in RAS+ as 8-bit, (x, y, z) or (x, y, z, 3), and its in-plane spacing (x, y) in mm."""
    status = path.stat()
    key = (str(path), status.st_mtime_ns, status.st_size)
    with _cache_lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
        made = _volume(path, limits)
        _cache[key] = made
        while len(_cache) > 1 and sum(volume.nbytes for volume, _ in _cache.values()) > _CACHE_BYTES:
            _cache.popitem(last=False)
        return made


def _volume(path: Path, limits: Limits) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    from nibabel.orientations import apply_orientation

    layout = _read_layout(path, limits)
    raw = _voxels(path, layout)
    shown = raw[..., :3] if layout.channels > 1 else _windowed(raw, layout)
    spacing_mm = [0.0, 0.0, 0.0]
    for axis, (towards, _) in enumerate(layout.orientation):
        spacing_mm[int(towards)] = layout.spacing_mm[axis]
    return apply_orientation(shown, layout.orientation), (spacing_mm[0], spacing_mm[1])


def _voxels(path: Path, layout: _Layout) -> NDArray[Any]:
    """The stored values of the first volume, (x, y, z) or (x, y, z, channels); nothing past it is read."""
    with _open(path) as file:
        skipped = file.read(layout.offset)
        data = file.read(layout.n_bytes)
    if len(skipped) < layout.offset or len(data) < layout.n_bytes:
        raise CorruptImage("truncated voxels", hint="fetch the file again")
    flat = np.frombuffer(data, dtype=layout.dtype)
    if layout.channels == 1:
        return flat.reshape(layout.shape, order="F")
    return np.moveaxis(flat.reshape((layout.channels, *layout.shape), order="F"), 0, -1)


def _windowed(raw: NDArray[Any], layout: _Layout) -> NDArray[np.uint8]:
    """Percentiles to 0 and 255, slab by slab, so that no float copy of the volume is made."""
    flat = raw.reshape(-1, order="F")
    sample = flat[:: max(1, flat.size // _SAMPLE)].astype(np.float64) * layout.slope + layout.intercept
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        raise CorruptImage("no finite voxels", hint="check how the volume was written")
    low, high = np.percentile(sample, _PERCENTILES)
    if not high > low:
        low, high = float(sample.min()), float(sample.max())
    scale = 255.0 / (high - low) if high > low else 0.0
    shown = np.empty(raw.shape, dtype=np.uint8, order="F")
    for z in range(raw.shape[2]):
        slab = raw[:, :, z].astype(np.float64) * layout.slope + layout.intercept
        slab = np.nan_to_num((slab - low) * scale, nan=0.0, posinf=255.0, neginf=0.0)
        shown[:, :, z] = np.clip(slab + 0.5, 0, 255)
    return shown


def _square_pixels(
    image: NDArray[np.uint8], spacing_mm: tuple[float, float], limits: Limits
) -> NDArray[np.uint8]:
    """``image`` with its longer-spaced side stretched, where its pixels are not square by more than 1 %."""
    x_mm, y_mm = spacing_mm
    height, width = image.shape[:2]
    if max(x_mm, y_mm) / min(x_mm, y_mm) > 1.01:
        finest_mm = min(x_mm, y_mm)
        height, width = max(1, round(height * y_mm / finest_mm)), max(1, round(width * x_mm / finest_mm))
    if height * width > limits.max_pixels:
        raise LimitExceeded(f"{height} x {width} pixels in a slice", hint="raise max_pixels")
    if (height, width) == image.shape[:2]:
        return image
    import cv2

    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
