"""A build backend that only tells the name and version of an sdist, so that none of its code is run.

pip asks a source distribution's build backend for metadata before it saves a download. This module answers
out of the ``PKG-INFO`` that every sdist carries (PEP 643), under the name of the default backend,
``setuptools.build_meta`` (PEP 517). It is copied to a folder on the path of that one pip process, so it
imports nothing but the standard library.
"""

from __future__ import annotations

import sys
from email.parser import HeaderParser
from pathlib import Path

__all__ = ["prepare_metadata_for_build_wheel"]


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: object = None) -> str:
    """Write ``METADATA`` with the name and version found in ``./PKG-INFO``; the folder's name (PEP 517)."""
    with Path("PKG-INFO").open(encoding="utf-8", errors="replace") as file:
        info = HeaderParser().parse(file)
    name, version = info["Name"], info["Version"]
    folder = Path(metadata_directory, f"{name.replace('-', '_')}-{version}.dist-info")
    folder.mkdir()
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (folder / "METADATA").write_text(text, encoding="utf-8")
    return folder.name


__legacy__ = sys.modules[__name__]
