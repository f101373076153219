"""Encoders by name or by folder."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from clinical_clip.embed.openvino_backend import OpenVinoEncoder, Precision
from clinical_clip.errors import EncoderNotFound

__all__ = ["DEFAULT_ENCODER", "open_encoder", "shipped_encoders"]

DEFAULT_ENCODER = "imagenet-lite0"


def _shipped_root() -> Path:
    return Path(str(resources.files("clinical_clip"))) / "weights"


def shipped_encoders() -> list[str]:
    """Names of the encoders that come with the package.

    >>> "imagenet-lite0" in shipped_encoders()
    True
    """
    return sorted(path.parent.name for path in _shipped_root().glob("*/encoder.json"))


def open_encoder(name: str = DEFAULT_ENCODER, *, precision: Precision = "auto") -> OpenVinoEncoder:
    """An encoder by its shipped name, or by the path of an encoder folder.

    Raises:
        EncoderNotFound: no such encoder.
        WeightsError: its files are damaged.
    """
    shipped = shipped_encoders()
    if name in shipped:
        return OpenVinoEncoder(_shipped_root() / name, precision=precision)
    folder = Path(name)
    if (folder / "encoder.json").is_file():
        return OpenVinoEncoder(folder, precision=precision)
    raise EncoderNotFound(
        f"no encoder {name!r}",
        where="--encoder",
        hint=f"use one of {shipped}, or the path of a folder that holds encoder.json",
    )
