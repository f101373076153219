"""ROCOv2 (Rückert et al. 2024): CSV files of captions, concepts and licences, and folders of images.

``<split>_captions.csv`` (ID, Caption); ``<split>_concepts.csv`` and ``<split>_concepts_manual.csv`` (ID,
CUIs separated by semicolons; the manual ones are modality and, for X-rays, body region); ``cui_mapping.csv``
(CUI, Canonical name); ``license_information.csv`` (ID, PMCID, Attribution, Link).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from clinical_clip.data.pairs.images import ImageFinder, UnsafePath
from clinical_clip.data.pairs.pair import Pair, RowProblem, split_name
from clinical_clip.data.table import read_rows
from clinical_clip.errors import ManifestError

__all__ = ["read_rocov2"]

_LICENCE = re.compile(r"CC0|CC[ -]BY(?:[ -](?:NC|ND|SA))*")
_PMC = re.compile(r"PMC[0-9]+")
_ORDER = {"train": 0, "validation": 1, "test": 2}
_Cells = dict[str, str]


def read_rocov2(root: Path, *, images: Path | None, problems: list[RowProblem]) -> Iterator[Pair]:
    """The pairs of every split under ``root``, with or without an image.

    Args:
        root: folder of the CSV files.
        images: folder of the images, or of the folders that hold them; ``root`` where None.
        problems: rows that cannot be used are added here.

    Raises:
        ManifestError: no captions, or a file that cannot be read.
    """
    captions = sorted(root.glob("*_captions.csv"), key=lambda one: _ORDER.get(_split_of(one), 3))
    if not captions:
        raise ManifestError(
            "no *_captions.csv", where=str(root), hint="give the folder of ROCOv2's CSV files"
        )
    licences = _by_id(root / "license_information.csv", "ID", problems)
    concept_names = _by_id(root / "cui_mapping.csv", "CUI", problems)
    finder = ImageFinder(images if images is not None else root)
    for table in captions:
        stem = table.name.removesuffix("_captions.csv")
        concepts = _by_id(root / f"{stem}_concepts.csv", "ID", problems)
        manual = _by_id(root / f"{stem}_concepts_manual.csv", "ID", problems)
        for image_id, cells in _by_id(table, "ID", problems).items():
            licence = licences.get(image_id, {})
            yield Pair(
                pair_id=image_id,
                image=_image(finder, stem, image_id, problems, table),
                caption=" ".join(_get(cells, "Caption").split()),
                image_id=image_id,
                article=_article(licence),
                split=_split_of(table),
                cuis=_cuis(concepts.get(image_id, {})),
                licence=_licence(licence),
                labels=_manual_labels(_cuis(manual.get(image_id, {})), concept_names),
            )


def _split_of(table: Path) -> str:
    return split_name(table.name.removesuffix("_captions.csv"))


def _by_id(path: Path, key: str, problems: list[RowProblem]) -> dict[str, _Cells]:
    """Rows by id; of an id that stands twice the first row counts. Empty where there is no such file."""
    rows: dict[str, _Cells] = {}
    if not path.is_file():
        problems.append(RowProblem(where=path.name, what="no such file"))
        return rows

    def on_bad_row(error: ManifestError) -> None:
        problems.append(RowProblem(where=error.where, what=error.what))

    for line, cells in read_rows(path, key, on_bad_row=on_bad_row):
        one = cells.get(key, "").strip()
        if not one:
            problems.append(RowProblem(where=f"{path.name}, line {line}", what="no id"))
        elif one in rows:
            problems.append(
                RowProblem(where=f"{path.name}, line {line}", what="an id that an earlier line has")
            )
        else:
            rows[one] = cells
    return rows


def _get(cells: _Cells, name: str) -> str:
    """A cell by its column's name, whatever its case."""
    return next((cell for key, cell in cells.items() if key.lower() == name.lower()), "")


def _cuis(cells: _Cells) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.strip() for one in _get(cells, "CUIs").split(";") if one.strip()))


def _article(licence: _Cells) -> str:
    found = _PMC.search(_get(licence, "PMCID") or _get(licence, "Link"))
    return found.group() if found else ""


def _licence(licence: _Cells) -> str:
    attribution = _get(licence, "Attribution") or _get(licence, "License")
    found = _LICENCE.search(attribution)
    return found.group().replace("CC-", "CC ") if found else attribution[:100]


def _manual_labels(cuis: tuple[str, ...], names: dict[str, _Cells]) -> dict[str, str]:
    if not cuis:
        return {}
    shown = [_get(names.get(cui, {}), "Canonical name") or cui for cui in cuis]
    return {"manual_cuis": ";".join(cuis), "manual_concepts": ";".join(shown)}


def _image(finder: ImageFinder, stem: str, image_id: str, problems: list[RowProblem], table: Path) -> Path:
    folders = (stem, f"{stem}_images", f"{stem}_images/{stem}", f"images/{stem}", "images", "")
    try:
        return finder.find_stem(image_id, folders=folders) or Path()
    except UnsafePath as error:
        problems.append(RowProblem(where=f"{table.name}, {image_id[:40]}", what=str(error)))
        return Path()
