"""What a file is, told by its first bytes; its name decides only what is passed over."""

from __future__ import annotations

import os
from enum import StrEnum

from clinical_clip.dicom.read import looks_like_dicom
from clinical_clip.errors import CorruptImage, ImageRejected, UnsupportedImage

__all__ = ["Format", "is_hidden", "is_passed_over", "sniff"]

_PASSED_OVER_SUFFIXES = (
    ".bib .bat .c .cfg .cpp .css .csv .dat .db .doc .docx .h .htm .html .inf .ini .ipynb .js .json .jsonl "
    ".lock .log .m .md .md5 .npy .npz .parquet .pkl .pt .py .pyc .r .rst .rtf .safetensors .sh .sha1 .sha256 "
    ".sql .sqlite .toml .tsv .txt .xls .xlsx .xml .yaml .yml"
)
_PASSED_OVER = frozenset(_PASSED_OVER_SUFFIXES.split())
_PASSED_OVER_NAMES = frozenset({"thumbs.db", "desktop.ini", "license", "readme", "dicomdir"})


class Format(StrEnum):
    """Formats that are read."""

    DICOM = "DICOM"
    JPEG = "JPEG"
    PNG = "PNG"
    TIFF = "TIFF"
    WEBP = "WebP"
    GIF = "GIF"
    BMP = "BMP"
    NIFTI = "NIfTI"


_MAGIC = (
    (b"\xff\xd8\xff", Format.JPEG),
    (b"\x89PNG\r\n\x1a\n", Format.PNG),
    (b"II*\0", Format.TIFF),
    (b"MM\0*", Format.TIFF),
    (b"II+\0", Format.TIFF),
    (b"MM\0+", Format.TIFF),
    (b"GIF87a", Format.GIF),
    (b"GIF89a", Format.GIF),
)
_OTHERS = (
    (b"PK\x03\x04", "a ZIP archive", "unpack it first"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"%PDF", "a PDF", "export its images first"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture outside DICOM", "convert it to PNG"),
    (b"NRRD", "an NRRD volume", "convert it to NIfTI"),
    (b"ObjectType", "a MetaImage volume", "convert it to NIfTI"),
    (b"\x89HDF", "an HDF5 or MINC file", "convert it to NIfTI"),
    (b"8BPS", "a Photoshop file", "export it as PNG"),
)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or kept by a system for itself.

    >>> is_hidden(".git"), is_hidden("series.1")
    (True, False)
    """
    return name.startswith(".") or name == "__MACOSX"


def is_passed_over(name: str) -> bool:
    """Whether a file of this name is passed over without opening it (and counted as ignored).

    Hidden files, tables, texts and programs are. DICOMDIR is read apart from the images.

    >>> is_passed_over(".DS_Store"), is_passed_over("labels.csv"), is_passed_over("1.2.840.113")
    (True, True, False)
    """
    lowered = name.lower()
    suffix = os.path.splitext(lowered)[1]
    return is_hidden(name) or lowered in _PASSED_OVER_NAMES or suffix in _PASSED_OVER


def sniff(head: bytes, name: str) -> Format:
    """Format of the file ``name`` that starts with ``head`` (352 bytes or more, unless it is shorter).

    A file that is DICOM and something else at once (its preamble is free, PS3.10 7.1) is DICOM.

    Raises:
        CorruptImage: an empty file.
        UnsupportedImage: a format that is not read.

    >>> sniff(b"\\xff\\xd8\\xff\\xe0" + bytes(400), "x.png").value
    'JPEG'
    """
    if not head:
        raise CorruptImage("an empty file", where=name, hint="fetch it again")
    if looks_like_dicom(head):
        return Format.DICOM
    for magic, format_ in _MAGIC:
        if head.startswith(magic):
            return format_
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return Format.WEBP
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return Format.BMP
    if head[344:348] in (b"n+1\0", b"n+2\0") or head[4:8] == b"n+2\0" or _is_gzipped_nifti(head, name):
        return Format.NIFTI
    raise _unsupported(head, name)


def _is_gzipped_nifti(head: bytes, name: str) -> bool:
    return head[:2] == b"\x1f\x8b" and name.lower().endswith(".nii.gz")


def _unsupported(head: bytes, name: str) -> ImageRejected:
    for magic, what, hint in _OTHERS:
        if head.startswith(magic):
            return UnsupportedImage(what, where=name, hint=hint)
    if b"<svg" in head[:2048].lower():
        return UnsupportedImage("an SVG drawing", where=name, hint="export it as PNG")
    if name.lower().endswith((".dcm", ".dicom", ".ima")):
        return CorruptImage("not DICOM, despite its name", where=name, hint="fetch the file again")
    return UnsupportedImage(
        "not a format that is read", where=name, hint="give DICOM, PNG, JPEG, TIFF, WebP or NIfTI"
    )
