"""Slices and projections of volumes (NIfTI, NRRD), as 8-bit pictures in radiological orientation."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from clinical_clip.errors import FetchError

__all__ = ["WINDOWS", "Volume", "project", "read_volume", "slice_image"]

WINDOWS = MappingProxyType(
    {
        "soft": (-160.0, 240.0),
        "lung": (-1350.0, 150.0),
        "bone": (-450.0, 1050.0),
        "brain": (0.0, 80.0),
        "mr": None,
    }
)
"""Lower and upper Hounsfield unit shown as black and white; None: 1st to 99.5th percentile of the slice."""

VOLUME_LIMIT_BYTES = 256 * 2**20
_AXES = MappingProxyType({"sagittal": 0, "coronal": 1, "axial": 2, "lateral": 0, "frontal": 1})
_WATER_PER_MM = 0.02  # linear attenuation of water near 70 keV, 1/mm
_AIR_HU = -900.0  # below this a voxel counts as air and attenuates nothing
_MAX_DENSITY = 3.0  # metal is held to three times water, or it would darken all else
_SLAB = 16


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A volume in right-anterior-superior voxel order.

    Attributes:
        voxels_XYZ: x grows towards the patient's right, y towards the front, z towards the head.
        spacing_mm: size of a voxel along x, y and z.
    """

    voxels_XYZ: NDArray[np.generic]
    spacing_mm: tuple[float, float, float]


def read_volume(data: bytes, name: str) -> Volume:
    """Volume of a NIfTI-1 (``.nii.gz``) or NRRD (``.nrrd``) file.

    Raises:
        FetchError: the bytes are no such file, or hold more than is allowed.
    """
    from nibabel.filebasedimages import ImageFileError
    from nibabel.orientations import apply_orientation, io_orientation
    from nibabel.spatialimages import HeaderDataError

    try:
        voxels, affine_44 = _read_nrrd(data) if name.endswith(".nrrd") else _read_nifti(data)
        orientation_32 = io_orientation(affine_44)
        voxels_XYZ = apply_orientation(voxels, orientation_32)
    except (OSError, EOFError, ValueError, LookupError, zlib.error, HeaderDataError, ImageFileError) as error:
        raise FetchError(f"not a readable volume ({type(error).__name__})", where=name) from None
    size_mm = np.linalg.norm(affine_44[:3, :3], axis=0)
    x, y, z = (float(size_mm[list(orientation_32[:, 0]).index(axis)]) for axis in range(3))
    return Volume(voxels_XYZ=voxels_XYZ, spacing_mm=(x, y, z))


def slice_image(volume: Volume, axis: str, index: int, window: str) -> NDArray[np.uint8]:
    """One slice as (H, W) uint8, square pixels, as a radiologist looks at it.

    Axial and coronal: the patient's right is on the left of the picture, the front or the head is up.
    Sagittal: the front is on the left, the head is up.

    Raises:
        FetchError: the volume has no such slice.
    """
    side = _AXES[axis]
    if index >= volume.voxels_XYZ.shape[side]:
        raise FetchError("the volume has no such slice", where=f"{axis} {index}")
    plane_UV = np.moveaxis(volume.voxels_XYZ, side, 0)[index].astype(np.float32)
    return _windowed(_upright(plane_UV, volume.spacing_mm, side), WINDOWS[window])


def project(volume: Volume, axis: str) -> NDArray[np.uint8]:
    """A radiograph computed from a CT volume: (H, W) uint8, dense bright, parallel rays.

    Line integral of the attenuation that the Hounsfield units stand for (mu = mu_water (1 + HU / 1000)) along
    the direction, ``frontal`` (front to back) or ``lateral`` (left to right).
    """
    side = _AXES[axis]
    depth = volume.voxels_XYZ.shape[2]
    slabs = []
    for start in range(0, depth, _SLAB):
        slab_XYZ = volume.voxels_XYZ[:, :, start : start + _SLAB].astype(np.float32)
        density_XYZ = np.where(slab_XYZ < _AIR_HU, 0, np.clip(1 + slab_XYZ / 1000, 0, _MAX_DENSITY))
        slabs.append(density_XYZ.sum(axis=side) * np.float32(_WATER_PER_MM * volume.spacing_mm[side]))
    integral_UV = np.concatenate(slabs, axis=1)
    picture_HW = _upright(integral_UV, volume.spacing_mm, side)
    low, high = np.percentile(picture_HW, [2, 99.7])
    return _to_uint8(_unit(picture_HW, low, high) ** 0.8)


def _upright(
    plane_UV: NDArray[np.float32], spacing_mm: tuple[float, float, float], side: int
) -> NDArray[np.float32]:
    across, up = (size for axis, size in enumerate(spacing_mm) if axis != side)
    picture_HW = plane_UV.T[::-1, ::-1]
    return _stretch(picture_HW, max(1, round(picture_HW.shape[0] * up / across)))


def _stretch(picture_HW: NDArray[np.float32], height: int) -> NDArray[np.float32]:
    """Resample the rows linearly to ``height``, so that pixels become square."""
    old = picture_HW.shape[0]
    if old == height:
        return picture_HW
    at_H = np.clip((np.arange(height) + 0.5) * old / height - 0.5, 0, old - 1)
    low_H = np.minimum(at_H.astype(np.intp), max(old - 2, 0))
    high_H = np.minimum(low_H + 1, old - 1)
    weight_H1 = (at_H - low_H).astype(np.float32)[:, None]
    stretched: NDArray[np.float32] = picture_HW[low_H] * (1 - weight_H1) + picture_HW[high_H] * weight_H1
    return stretched


def _windowed(picture_HW: NDArray[np.float32], window: tuple[float, float] | None) -> NDArray[np.uint8]:
    low, high = np.percentile(picture_HW, [1, 99.5]) if window is None else window
    return _to_uint8(_unit(picture_HW, low, high))


def _unit(picture_HW: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    scaled_HW: NDArray[np.float32] = np.clip((picture_HW - low) / max(high - low, 1e-6), 0, 1)
    return scaled_HW


def _to_uint8(unit_HW: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(unit_HW * 255).astype(np.uint8)


def _gunzip(data: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        plain = file.read(VOLUME_LIMIT_BYTES + 1)
    if len(plain) > VOLUME_LIMIT_BYTES:
        raise ValueError("too large")
    return plain


def _read_nifti(data: bytes) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    import nibabel

    image = nibabel.Nifti1Image.from_bytes(_gunzip(data))
    voxels: NDArray[np.generic] = np.asarray(image.dataobj.get_unscaled())
    slope, inter = float(image.dataobj.slope), float(image.dataobj.inter)
    if (slope, inter) != (1.0, 0.0):
        voxels = voxels.astype(np.float32) * np.float32(slope) + np.float32(inter)
    return _three(voxels), np.asarray(image.affine, np.float64)


_NRRD_TYPES = MappingProxyType({"short": "i2", "unsigned short": "u2", "unsigned char": "u1", "int": "i4"})


def _read_nrrd(data: bytes) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """An attached-header, gzip-encoded NRRD in left-posterior-superior space (teem.sourceforge.net/nrrd)."""
    head, _, body = data.partition(b"\n\n")
    if not head.startswith(b"NRRD"):
        raise ValueError("no NRRD")
    fields = dict(re.findall(r"^([a-z ]+): (.*?)\r?$", head.decode("ascii"), re.MULTILINE))
    if fields["encoding"] not in ("gzip", "gz") or fields["space"] != "left-posterior-superior":
        raise ValueError("unexpected encoding or space")
    order = ">" if fields.get("endian") == "big" else "<"
    dtype = np.dtype(order + _NRRD_TYPES[fields["type"].strip()])
    sizes = [int(size) for size in fields["sizes"].split()]
    voxels = _three(np.frombuffer(_gunzip(body), dtype).reshape(sizes, order="F"))
    vectors = re.findall(r"\(([^)]*)\)", fields["space directions"])
    directions_33 = np.array([[float(part) for part in vector.split(",")] for vector in vectors])
    affine_44 = np.eye(4)
    affine_44[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ directions_33.T
    return voxels, affine_44


def _three(voxels: NDArray[np.generic]) -> NDArray[np.generic]:
    if voxels.ndim != 3:
        raise ValueError("not three dimensions")
    return voxels
