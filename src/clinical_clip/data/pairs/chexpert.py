"""CheXpert (Irvin et al. 2019): label tables of chest radiographs, and CheXpert Plus with its reports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from clinical_clip.data.pairs.detect import chexpert_tables
from clinical_clip.data.pairs.images import ImageFinder, UnsafePath
from clinical_clip.data.pairs.pair import CAPTION_SOURCE, SYNTHETIC, Pair, RowProblem, split_name
from clinical_clip.data.table import read_header_row, read_rows
from clinical_clip.errors import ManifestError

__all__ = ["CHEXPERT_LABELS", "chexpert_image", "chexpert_labels", "patient_of", "read_chexpert"]

CHEXPERT_LABELS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""The fourteen observations, in the order of the tables."""

_PATIENT = re.compile(r"patient[0-9]+")
_VALUES = {"1.0": "1", "1": "1", "0.0": "0", "0": "0", "-1.0": "-1", "-1": "-1"}
_REPORT = ("section_findings", "section_impression")


def read_chexpert(
    path: Path, *, images: Path | None, synthetic: bool, problems: list[RowProblem]
) -> Iterator[Pair]:
    """A pair for each image. CheXpert has no reports: its captions are empty unless ``synthetic`` makes one
    of the labels; CheXpert Plus has findings and impressions.

    Args:
        path: a table, or the folder of ``train.csv`` and ``valid.csv``, or of CheXpert Plus.
        images: the folder that holds ``CheXpert-v1.0-small`` (or the like), or that folder itself.
        synthetic: make captions of positive labels, and mark them.
        problems: rows that cannot be used are added here.

    Raises:
        ManifestError: a table that cannot be read.
    """
    for table in chexpert_tables(path):
        root = images if images is not None else table.parent
        finders = [ImageFinder(root)] + ([] if images is not None else [ImageFinder(root.parent)])
        plus = "path_to_image" in _header(table)
        key = "path_to_image" if plus else "Path"
        seen: set[str] = set()

        def on_bad_row(error: ManifestError) -> None:
            problems.append(RowProblem(where=error.where, what=error.what))

        for line, cells in read_rows(table, key, on_bad_row=on_bad_row):
            relative, where = cells.get(key, "").strip(), f"{table.name}, line {line}"
            if not relative or relative in seen:
                problems.append(
                    RowProblem(where=where, what="a path given before" if relative else "no path")
                )
                continue
            seen.add(relative)
            yield _pair(relative, cells, finders, table, where, synthetic=synthetic, problems=problems)


def _pair(
    relative: str,
    cells: dict[str, str],
    finders: list[ImageFinder],
    table: Path,
    where: str,
    /,
    *,
    synthetic: bool,
    problems: list[RowProblem],
) -> Pair:
    labels = chexpert_labels(cells)
    caption = " ".join(" ".join(cells.get(name, "") for name in _REPORT).split())
    if caption:
        labels[CAPTION_SOURCE] = "report"
    elif synthetic:
        caption = _caption(labels)
        labels[SYNTHETIC] = "1"
    split = cells.get("split") or (
        table.stem if split_name(table.stem) in ("train", "validation", "test") else ""
    )
    return Pair(
        pair_id=relative,
        image=chexpert_image(relative, finders, where, problems),
        caption=caption,
        image_id=relative,
        article=patient_of(relative),
        split=split_name(split or _split_of(relative)),
        labels=labels,
    )


def chexpert_labels(cells: dict[str, str]) -> dict[str, str]:
    """Observations (``1``, ``0``, ``-1`` for uncertain; not mentioned ones are left out) and the view."""
    labels = {name: _VALUES[cells[name]] for name in CHEXPERT_LABELS if cells.get(name, "") in _VALUES}
    view = cells.get("Frontal/Lateral") or cells.get("frontal_lateral") or ""
    projection = cells.get("AP/PA") or cells.get("ap_pa") or ""
    return labels | {name: text for name, text in (("view", view), ("projection", projection)) if text}


def chexpert_image(relative: str, finders: list[ImageFinder], where: str, problems: list[RowProblem]) -> Path:
    """The image of a path such as ``CheXpert-v1.0-small/train/patient00001/...``: below the root as it
    stands, or without its first folder, since copies are named differently. CheXpert Plus has PNGs too.
    """
    short = relative.partition("/")[2] if relative.startswith("CheXpert") else relative
    names = [relative, short]
    names += [str(Path(name).with_suffix(".png")) for name in names]
    try:
        found = (finder.find(names, folders=("", "PNG")) for finder in finders)
        return next((one for one in found if one is not None), Path())
    except UnsafePath as error:
        problems.append(RowProblem(where=where, what=str(error)))
        return Path()


def patient_of(relative: str) -> str:
    """The pseudonym in a path: ``patient00001``."""
    found = _PATIENT.search(relative)
    return found.group() if found else ""


def _split_of(relative: str) -> str:
    return next((part for part in relative.split("/") if part in ("train", "valid", "test")), "")


def _caption(labels: dict[str, str]) -> str:
    found = [name.lower() for name in CHEXPERT_LABELS if labels.get(name) == "1"]
    view = f"{labels['view']} chest radiograph" if "view" in labels else "Chest radiograph"
    return f"{view}: {', '.join(found)}." if found else f"{view}."


def _header(table: Path) -> list[str]:
    try:
        return read_header_row(table, "Path")
    except ManifestError:
        return read_header_row(table, "path_to_image")
