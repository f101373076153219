"""Axial slices of a NIfTI-1 or NIfTI-2 volume as 8-bit pixels.

The volume is turned to RAS+ by its affine, cut across the inferior-superior axis and shown as a radiologist
holds an axial slice: the patient's right on the left, anterior on top. NIfTI carries no display window, so
one rule serves all: the 0.5th to the 99.5th percentile of the volume's finite voxels become 0 to 255. Of a
volume with a time axis the first time point is read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from clinical_clip.data.nifti_layout import Layout, open_volume, read_layout
from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.dicom.quiet import quiet
from clinical_clip.errors import CorruptImage, ImageRejected, LimitExceeded

__all__ = ["read_slice", "slice_count"]

_PERCENTILES = (0.5, 99.5)
_T = TypeVar("_T")
_SAMPLE = 1_000_000
_CACHE_BYTES = 256 << 20


def slice_count(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> int:
    """Axial slices of the volume at ``path``, from its header alone.

    Raises:
        CorruptImage, UnsupportedImage, LimitExceeded: as ``read_slice``.
    """
    return _guarded(path, lambda: read_layout(path, limits)).n_slices


def read_slice(path: Path, index: int, *, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Axial slice ``index``, from 0 at the inferior end: (H, W) grey, or (H, W, 3) of a colour volume.

    The volume is read once and kept, as 8-bit, for the slices that follow (256 MiB at most are kept).

    Raises:
        CorruptImage: truncated or inconsistent bytes, or no such slice.
        UnsupportedImage: complex or extended-precision voxels.
        LimitExceeded: a volume larger than a quarter of ``memory_bytes`` as 8-bit, one that inflates a
            hundredfold past ``max_inflated_bytes``, or a slice past ``max_pixels``.
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
    """Made slab by slab: a volume that is large as stored is read twice rather than held whole."""
    from nibabel.orientations import apply_orientation

    layout = read_layout(path, limits)
    held = list(_slabs(path, layout)) if layout.n_bytes <= limits.max_inflated_bytes else None
    if layout.channels > 1:
        low, scale = 0.0, 1.0
    else:
        low, scale = _window(held or _slabs(path, layout), layout)
    shape = layout.shape if layout.channels == 1 else (*layout.shape, 3)
    shown = np.empty(shape, dtype=np.uint8, order="F")
    for z, slab in enumerate(held or _slabs(path, layout)):
        shown[:, :, z] = slab[..., :3] if layout.channels > 1 else _windowed(slab, layout, low, scale)
    spacing_mm = [0.0, 0.0, 0.0]
    for axis, (towards, _) in enumerate(layout.orientation):
        spacing_mm[int(towards)] = layout.spacing_mm[axis]
    return apply_orientation(shown, layout.orientation), (spacing_mm[0], spacing_mm[1])


def _slabs(path: Path, layout: Layout) -> Iterator[NDArray[Any]]:
    """Stored values of the first volume along its third axis: (x, y), or (x, y, channels) of colours."""
    x, y, n_slabs = layout.shape
    with open_volume(path) as file:
        if len(file.read(layout.offset)) < layout.offset:
            raise CorruptImage("truncated voxels", hint="fetch the file again")
        for _ in range(n_slabs):
            data = file.read(layout.n_slab_bytes)
            if len(data) < layout.n_slab_bytes:
                raise CorruptImage("truncated voxels", hint="fetch the file again")
            flat = np.frombuffer(data, dtype=layout.dtype)
            if layout.channels == 1:
                yield flat.reshape((x, y), order="F")
            else:
                yield np.moveaxis(flat.reshape((layout.channels, x, y), order="F"), 0, -1)


def _window(slabs: Iterable[NDArray[Any]], layout: Layout) -> tuple[float, float]:
    """The value that becomes 0, and the grey levels a unit, from an even sample of the volume's voxels."""
    step, start = max(1, int(np.prod(layout.shape)) // _SAMPLE), 0
    samples = []
    for slab in slabs:
        samples.append(slab.reshape(-1, order="F")[start::step])
        start = (start - slab.size) % step
    sample = np.concatenate(samples).astype(np.float64) * layout.slope + layout.intercept
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        raise CorruptImage("no finite voxels", hint="check how the volume was written")
    low, high = (float(one) for one in np.percentile(sample, _PERCENTILES))
    if not high > low:
        low, high = float(sample.min()), float(sample.max())
    return low, 255.0 / (high - low) if high > low else 0.0


def _windowed(slab: NDArray[Any], layout: Layout, low: float, scale: float) -> NDArray[np.float64]:
    values = (slab.astype(np.float64) * layout.slope + layout.intercept - low) * scale
    finite = np.nan_to_num(values, nan=0.0, posinf=255.0, neginf=0.0)
    return np.asarray(np.clip(finite + 0.5, 0, 255), dtype=np.float64)


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
