"""Where the image of a row lies: below its root, found without asking the disk once a row."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["ImageFinder", "UnsafePath"]

_SUFFIXES = (".jpg", ".png", ".jpeg", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".dcm")
_SEPARATORS = re.compile(r"[/\\]")


class UnsafePath(ValueError):
    """A path that leaves the image root, or a URL."""


class ImageFinder:
    """Finds files below a root. Each folder is listed once, so a million rows cost no million calls.

    >>> ImageFinder(Path("/nowhere")).find(["a.png"]) is None
    True
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._folders: dict[str, dict[str, bool]] = {}
        self._known: dict[str, str] = {}

    def find(self, names: Iterable[str], *, folders: Iterable[str] = ("",)) -> Path | None:
        """The first file that exists of ``folder/name``, in the order of the folders, then of the names.

        Raises:
            UnsafePath: a name that leads out of the root.
        """
        names = list(names)
        plain = not any(_SEPARATORS.search(name) for name in names)
        for folder in folders:
            full = self._full(folder)
            listed = self._listed(full) if plain else {}
            for name in names:
                if plain and listed.get(name, False):
                    return Path(full, name)
                if not plain and self._exists(path := self._inside(os.path.join(folder, name))):
                    return Path(path)
        return None

    def find_stem(self, stem: str, *, folders: Iterable[str] = ("",)) -> Path | None:
        """The first file of this stem with the suffix of a picture."""
        return self.find([stem + suffix for suffix in _SUFFIXES], folders=folders)

    def _full(self, folder: str) -> str:
        """The path of one of the few folders that are looked into again and again."""
        full = self._known.get(folder)
        if full is None:
            full = self._known[folder] = self._inside(folder) if folder else str(self.root)
        return full

    def _inside(self, relative: str) -> str:
        if "://" in relative:
            raise UnsafePath("a URL, which is never fetched")
        if "\0" in relative or "\n" in relative:
            raise UnsafePath("a path with a control character")
        if os.sep == "/" and "/" not in relative:
            relative = relative.replace("\\", "/")
        root = str(self.root)
        full = os.path.normpath(os.path.join(root, relative))
        if not full.startswith(root.rstrip(os.sep) + os.sep):
            raise UnsafePath("a path that leaves the image root")
        return full

    def _exists(self, full: str) -> bool:
        folder, _, name = full.rpartition(os.sep)
        return self._listed(folder).get(name, False)

    def _listed(self, folder: str) -> dict[str, bool]:
        listed = self._folders.get(folder)
        if listed is None:
            listed = self._folders[folder] = self._list(folder)
        return listed

    def _list(self, folder: str) -> dict[str, bool]:
        """Regular files of ``folder``, and links that end in one below the root."""
        try:
            with os.scandir(folder) as entries:
                if not self._below(os.path.realpath(folder)):
                    return {}
                return {entry.name: self._usable(entry) for entry in entries}
        except (OSError, ValueError):
            return {}

    def _usable(self, entry: os.DirEntry[str]) -> bool:
        if not entry.is_file():
            return False
        return not entry.is_symlink() or self._below(os.path.realpath(entry.path))

    def _below(self, real: str) -> bool:
        root = str(self.root)
        return real == root or real.startswith(root.rstrip(os.sep) + os.sep)
