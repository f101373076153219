"""The header of a NIfTI volume: where its voxels are, and how its axes lie in the patient."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from clinical_clip.dicom.limits import Limits
from clinical_clip.errors import CorruptImage, LimitExceeded, UnsupportedImage

__all__ = ["Layout", "open_volume", "read_layout"]

_MAX_RATIO = 100
"""Inflated to stored bytes that an image volume may reach (10 is usual; deflate's own limit is 1,032)."""
_RGB = {128: 3, 2304: 4}
"""NIfTI datatype codes of colour volumes, and their bytes a voxel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
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
    def n_slab_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize * self.channels

    @property
    def n_bytes(self) -> int:
        return self.n_slab_bytes * self.shape[2]

    @property
    def n_shown_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2] * min(self.channels, 3)

    @property
    def n_slices(self) -> int:
        upwards = int(np.argwhere(self.orientation[:, 0] == 2)[0, 0])
        return self.shape[upwards]


def open_volume(path: Path) -> IO[bytes]:
    """The bytes of the volume at ``path``, inflated as they are read where it is gzipped."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else path.open("rb")  # type: ignore[return-value]


def read_layout(path: Path, limits: Limits) -> Layout:
    """The layout of the volume at ``path``, from at most 540 of its bytes, checked against ``limits``.

    Raises:
        CorruptImage, UnsupportedImage, LimitExceeded: as ``read_slice``.
        Exception: whatever nibabel says of a header that it cannot read.
    """
    import nibabel as nib

    with open_volume(path) as file:
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
    layout = Layout(
        shape=(x, y, z),
        dtype=dtype,
        channels=_RGB.get(code, 1),
        offset=int(header.get_data_offset()),
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        orientation=orientation,
        spacing_mm=_spacing_mm(affine),
    )
    _check(layout, path, limits)
    return layout


def _spacing_mm(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Distances between voxel centres along the array's axes; ones where they make no sense."""
    x, y, z = (float(one) for one in np.sqrt(np.square(affine[:3, :3]).sum(axis=0)))
    plausible = all(1e-3 < one < 1e3 for one in (x, y, z))
    return (x, y, z) if plausible else (1.0, 1.0, 1.0)


def _check(layout: Layout, path: Path, limits: Limits) -> None:
    """The caps, before anything of the volume is read."""
    n_file_bytes = path.stat().st_size
    if layout.n_shown_bytes > limits.memory_bytes // 4 or layout.n_slab_bytes > limits.max_inflated_bytes:
        raise LimitExceeded(f"a volume of {layout.n_bytes:,} bytes", hint="raise memory_bytes")
    if layout.n_bytes > max(limits.max_inflated_bytes, _MAX_RATIO * n_file_bytes):
        raise LimitExceeded(
            f"{n_file_bytes:,} bytes that inflate to {layout.n_bytes:,}", hint="raise max_inflated_bytes"
        )
    if layout.n_slices > limits.max_frames:
        raise LimitExceeded(f"{layout.n_slices:,} slices", hint="raise max_frames")
    if not 0 <= layout.offset <= limits.max_header_bytes:
        raise LimitExceeded(f"{layout.offset:,} bytes before the voxels", hint="raise max_header_bytes")
