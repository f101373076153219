"""Images out of tables and archives, as files named by their content."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from clinical_clip.atomic import replace_file
from clinical_clip.data.sniff import Format, sniff
from clinical_clip.errors import ImageRejected

__all__ = ["ImageStore", "default_store_folder"]

_SUFFIXES = {
    Format.JPEG: ".jpg",
    Format.PNG: ".png",
    Format.TIFF: ".tif",
    Format.WEBP: ".webp",
    Format.GIF: ".gif",
    Format.BMP: ".bmp",
    Format.DICOM: ".dcm",
    Format.NIFTI: ".nii",
}


def default_store_folder() -> Path:
    """Where images are unpacked to if no folder is named: below the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(cache) / "clinical-clip" / "images"


class ImageStore:
    """A folder of images named by the SHA-256 of their bytes: each is written once, whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, data: bytes) -> Path:
        """Write ``data`` unless it is there; the path it has.

        Raises:
            ImageRejected: bytes of no format that is read.
            StoreError: the folder cannot be written to.
        """
        sha = hashlib.sha256(data).hexdigest()
        path = self.path(sha + _suffix(data))
        if not (path.is_file() and path.stat().st_size == len(data)):
            with replace_file(path) as stream:
                stream.write(data)
        return path

    def path(self, name: str) -> Path:
        """Where the image of that name, ``<sha256><suffix>``, lies."""
        return self.folder / name[:2] / name


def _suffix(data: bytes) -> str:
    try:
        return _SUFFIXES[sniff(data[: 1 << 12], "image")]
    except ImageRejected as error:
        error.where = "an embedded image"
        raise
