"""Small DICOM files made in code."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def dataset(pixels: NDArray[Any], *, syntax: str = ExplicitVRLittleEndian, **attributes: Any) -> Dataset:
    """An image with ``pixels`` (H, W) or (H, W, 3); attributes replace its own, None leaves one out."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.SOPClassUID = SECONDARY_CAPTURE
    made.SOPInstanceUID = "1.2.3.4"
    bits = 8 * pixels.dtype.itemsize
    values = {
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1 if pixels.ndim == 2 else 3,
        "PhotometricInterpretation": "MONOCHROME2" if pixels.ndim == 2 else "RGB",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": (attributes.get("BitsStored") or bits) - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }
    if pixels.ndim == 3:
        values["PlanarConfiguration"] = 0
    for keyword, value in (values | attributes).items():
        if value is not None:
            setattr(made, keyword, value)
    if "PixelData" not in attributes and "FloatPixelData" not in made and "DoubleFloatPixelData" not in made:
        data = pixels.tobytes()
        made.PixelData = data + b"\0" * (len(data) % 2)
        made["PixelData"].VR = "OW"
    return made


def save(made: Dataset, folder: Path, name: str = "x.dcm") -> Path:
    path = folder / name
    made.save_as(path, enforce_file_format=True)
    return path


def write(folder: Path, pixels: NDArray[Any], **attributes: Any) -> Path:
    return save(dataset(pixels, **attributes), folder)


def element(tag: int, vr: str, value: bytes, *, length: int | None = None, pad: bool = True) -> bytes:
    """An element in explicit VR little endian, whose length may lie."""
    if pad and len(value) % 2:
        value += b"\0"
    size = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    if vr in ("OB", "OW", "SQ", "UN", "UT", "OF", "OD"):
        return head + b"\0\0" + struct.pack("<L", size) + value
    return head + struct.pack("<H", size & 0xFFFF) + value


def us(tag: int, *values: int) -> bytes:
    return element(tag, "US", struct.pack(f"<{len(values)}H", *values))


def image_elements(rows: int = 4, columns: int = 4, **replaced: bytes) -> bytes:
    """The Image Pixel module of an 8-bit grey image; an element is replaced by its keyword."""
    parts = {
        "SamplesPerPixel": us(0x00280002, 1),
        "PhotometricInterpretation": element(0x00280004, "CS", b"MONOCHROME2 "),
        "NumberOfFrames": element(0x00280008, "IS", b"1 "),
        "Rows": us(0x00280010, rows),
        "Columns": us(0x00280011, columns),
        "BitsAllocated": us(0x00280100, 8),
        "BitsStored": us(0x00280101, 8),
        "HighBit": us(0x00280102, 7),
        "PixelRepresentation": us(0x00280103, 0),
    }
    return b"".join((parts | replaced).values())


def part10(
    body: bytes, *, syntax: str = ExplicitVRLittleEndian, preamble: bytes = bytes(128), uid: str = "1.2.3.4"
) -> bytes:
    """A file around raw elements, with SOP class and instance before them."""
    meta = element(0x00020010, "UI", syntax.encode())
    identity = element(0x00080016, "UI", SECONDARY_CAPTURE.encode()) + element(0x00080018, "UI", uid.encode())
    return (
        preamble + b"DICM" + element(0x00020000, "UL", struct.pack("<L", len(meta))) + meta + identity + body
    )


def grey(values: list[list[int]], dtype: str = "uint8") -> NDArray[Any]:
    return np.array(values, dtype)
