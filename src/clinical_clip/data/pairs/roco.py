"""ROCO (Pelka et al. 2018): the six metadata files of each split, as its repository publishes them.

``captions``: id, caption. ``keywords`` and ``cuis``: id, an empty field, then one value a field.
``semtypes``: id, an empty field, then code and name in turns. ``dlinks``: id, a wget command that names
the PMC package, the image's name in it. ``licences``: CSV with the header ``ROCO_ID,PMC_ID,CC``, where
PMC_ID is the image's file name: ``<PMC id>_<image name>``.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clinical_clip.data.pairs.images import ImageFinder, UnsafePath
from clinical_clip.data.pairs.lines import read_keyed_lines, read_lines
from clinical_clip.data.pairs.pair import Pair, RowProblem, split_name
from clinical_clip.errors import ManifestError

__all__ = ["ROCO_FILES", "RocoSplit", "find_roco", "read_roco"]

ROCO_FILES = ("captions", "keywords", "cuis", "semtypes", "dlinks", "licences")
"""The metadata files of a split, by what they hold."""

_PMC = re.compile(r"PMC[0-9]+")
_SPLIT_FOLDERS = ("train", "validation", "test")
_GROUPS = ("radiology", "non-radiology")


@dataclass(frozen=True, kw_only=True, slots=True)
class RocoSplit:
    """One split's files.

    Attributes:
        split: train, validation or test.
        group: radiology, non-radiology, or empty where the layout does not say.
        files: paths by what they hold; captions are always there.
    """

    split: str
    group: str
    files: dict[str, Path] = field(repr=False)

    @property
    def folder(self) -> Path:
        """Where the captions lie."""
        return self.files["captions"].parent


def find_roco(root: Path) -> list[RocoSplit]:
    """The splits under ``root``: a clone of the repository, its ``data`` folder, one split's folder, one
    group's folder, or flat files named ``test.captions.txt``. Empty where it is none of them.
    """
    found: list[RocoSplit] = []
    for base in (root / "data", root / "all_data", root):
        for split in _SPLIT_FOLDERS:
            for group in _GROUPS:
                found += _in_folder(base / split / group, split, group)
        if found:
            return found
    for group in _GROUPS:
        found += _in_folder(root / group, split_name(root.name), group)
    if not found and root.name in _GROUPS:
        found = _in_folder(root, split_name(root.parent.name), root.name)
    return found or _flat(root)


def _in_folder(folder: Path, split: str, group: str) -> list[RocoSplit]:
    files = {name: folder / f"{name}.txt" for name in ROCO_FILES if (folder / f"{name}.txt").is_file()}
    return [RocoSplit(split=split, group=group, files=files)] if "captions" in files else []


def _flat(root: Path) -> list[RocoSplit]:
    found = []
    for captions in sorted(root.glob("*.captions.txt")):
        stem = captions.name.removesuffix(".captions.txt")
        files = {
            name: root / f"{stem}.{name}.txt"
            for name in ROCO_FILES
            if (root / f"{stem}.{name}.txt").is_file()
        }
        found.append(RocoSplit(split=split_name(stem), group="", files=files))
    order = {name: number for number, name in enumerate(_SPLIT_FOLDERS)}
    return sorted(found, key=lambda one: (order.get(one.split, len(order)), one.split))


def read_roco(one: RocoSplit, *, images: Path | None, problems: list[RowProblem]) -> Iterable[Pair]:
    """The pairs of one split in the order of its captions, with or without an image.

    Args:
        one: its files.
        images: folder of the images; beside the captions, in ``images/``, where None. Files are named as
            ROCO's own script names them, ``<PMC id>_<image name>``, or by ROCO id.
        problems: rows that cannot be used are added here.

    Raises:
        ManifestError: a file that cannot be read at all, or captions without a single usable line.
    """
    captions = read_keyed_lines(one.files["captions"], problems)
    if not captions:
        raise ManifestError(
            "no usable caption",
            where=one.files["captions"].name,
            hint="a line is an id, a tab and a caption: fetch the file again",
        )
    others: dict[str, dict[str, list[str]]] = {
        name: read_keyed_lines(one.files[name], problems)
        for name in ("keywords", "cuis", "semtypes", "dlinks")
        if name in one.files
    }
    licences = read_licences(one.files["licences"], problems) if "licences" in one.files else {}
    for name in ROCO_FILES:
        if name not in one.files:
            problems.append(RowProblem(where=f"{one.folder.name} ({one.split})", what=f"no {name} file"))
    _report_strays(one, captions, {**others, "licences": licences}, problems)
    reader = _Rows(
        one=one,
        others=others,
        licences=licences,
        finder=ImageFinder(images if images is not None else one.folder),
        folders=_image_folders(one) if images is not None else ("images", ""),
        problems=problems,
    )
    return (reader.pair(roco_id, fields) for roco_id, fields in captions.items())


def _image_folders(one: RocoSplit) -> tuple[str, ...]:
    group = one.group or "radiology"
    nested = (f"{one.split}/{group}/images", f"{one.split}/{group}", f"{one.split}/images", one.split)
    return ("", "images", *nested, *(f"data/{name}" for name in nested[:2]))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    """The rows of one split's files by id, put together."""

    one: RocoSplit
    others: dict[str, dict[str, list[str]]]
    licences: dict[str, tuple[str, str]]
    finder: ImageFinder
    folders: tuple[str, ...]
    problems: list[RowProblem]

    def pair(self, roco_id: str, caption: list[str]) -> Pair:
        link, semtypes = self._row("dlinks", roco_id), self._row("semtypes", roco_id)[1:]
        file_name, licence = self.licences.get(roco_id, ("", ""))
        match = _PMC.search(link[0] if link else file_name)
        article = match.group() if match else ""
        if link and (len(link) < 2 or not article):
            self._note("dlinks", roco_id, "no PMC package or no image name")
        if len(semtypes) % 2:
            self._note("semtypes", roco_id, "a code without a name")
        name = link[1].strip() if len(link) > 1 else ""
        names = [f"{article}_{name}" if article and name else "", file_name, name]
        return Pair(
            pair_id=roco_id,
            image=self._image(roco_id, [one for one in dict.fromkeys(names) if one]),
            caption=" ".join("\t".join(caption).split()),
            image_id=roco_id,
            article=article,
            split=self.one.split,
            cuis=_values(self._row("cuis", roco_id)),
            semtypes=tuple(zip(semtypes[::2], semtypes[1::2], strict=False)),
            keywords=_values(self._row("keywords", roco_id)),
            licence=licence,
            labels={"group": self.one.group} if self.one.group else {},
        )

    def _row(self, name: str, roco_id: str) -> list[str]:
        return self.others.get(name, {}).get(roco_id, [])

    def _image(self, roco_id: str, names: list[str]) -> Path:
        try:
            found = self.finder.find(names, folders=self.folders)
            return found or self.finder.find_stem(roco_id, folders=self.folders) or Path()
        except UnsafePath as error:
            self._note("dlinks", roco_id, str(error))
            return Path()

    def _note(self, name: str, roco_id: str, what: str) -> None:
        self.problems.append(_problem(self.one, name, roco_id, what))


def _values(fields: list[str]) -> tuple[str, ...]:
    """What follows the empty second field, without repeats."""
    return tuple(dict.fromkeys(one.strip() for one in fields[1:] if one.strip()))


def _problem(one: RocoSplit, name: str, roco_id: str, what: str) -> RowProblem:
    path = one.files.get(name, one.files["captions"])
    return RowProblem(where=f"{path.name}, {roco_id[:40]}", what=what)


def read_licences(path: Path, problems: list[RowProblem]) -> dict[str, tuple[str, str]]:
    """Image file name and licence by ROCO id."""
    licences: dict[str, tuple[str, str]] = {}
    for number, text in read_lines(path, problems):
        cells = next(csv.reader([text]))
        if number == 1 and cells[0].strip().upper() == "ROCO_ID":
            continue
        where = f"{path.name}, line {number}"
        if len(cells) != 3:
            problems.append(RowProblem(where=where, what=f"{len(cells)} cells instead of 3"))
        elif cells[0] in licences:
            problems.append(RowProblem(where=where, what="an id that an earlier line has"))
        else:
            licences[cells[0].strip()] = (cells[1].strip(), cells[2].strip())
    return licences


def _report_strays(
    one: RocoSplit,
    captions: dict[str, list[str]],
    ids: Mapping[str, Iterable[str]],
    problems: list[RowProblem],
) -> None:
    """Ids that one file has and another lacks: the files do not belong together, or one is cut short."""
    for name in sorted(ids.keys() & one.files.keys()):
        lacking, extra = captions.keys() - set(ids[name]), set(ids[name]) - captions.keys()
        if lacking:
            problems.append(_problem(one, name, min(lacking), f"{len(lacking)} captioned ids are not in it"))
        if extra:
            problems.append(_problem(one, name, min(extra), f"{len(extra)} ids of it have no caption"))
