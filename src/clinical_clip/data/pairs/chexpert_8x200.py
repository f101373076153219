"""CheXpert 8x200, the retrieval sets published with ConVIRT (Zhang et al. 2020).

``image-retrieval/candidate.csv``: 1,600 images, 200 a finding, CheXpert's columns.
``image-retrieval/query.csv``: finding (``Variable``) and path of 80 query images.
``text-retrieval/query.csv``: finding and text of 40 text queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clinical_clip.data.pairs.chexpert import chexpert_image, chexpert_labels, patient_of
from clinical_clip.data.pairs.images import ImageFinder
from clinical_clip.data.pairs.pair import Pair, RowProblem
from clinical_clip.data.table import read_rows
from clinical_clip.errors import ManifestError

__all__ = ["FINDINGS_8X200", "read_8x200", "read_text_queries"]

FINDINGS_8X200 = (
    "Atelectasis",
    "Cardiomegaly",
    "Edema",
    "Fracture",
    "No Finding",
    "Pleural Effusion",
    "Pneumonia",
    "Pneumothorax",
)
"""The eight findings; a candidate is positive for exactly one of them."""


def read_8x200(root: Path, *, images: Path | None, problems: list[RowProblem]) -> Iterator[Pair]:
    """Candidates (split ``candidate``) and image queries (split ``query``), label ``finding``, no captions.

    A candidate that is positive for none or several of the findings, or uncertain of one, is left out
    and listed.

    Raises:
        ManifestError: a table that is missing or cannot be read.
    """
    folder = root / "image-retrieval"
    reader = _Reader(images if images is not None else root, problems)

    def on_bad_row(error: ManifestError) -> None:
        problems.append(RowProblem(where=error.where, what=error.what))

    for line, cells in read_rows(folder / "candidate.csv", "Path", on_bad_row=on_bad_row):
        where = f"candidate.csv, line {line}"
        labels = chexpert_labels(cells)
        positive = [name for name in FINDINGS_8X200 if labels.get(name) == "1"]
        if len(positive) != 1:
            problems.append(RowProblem(where=where, what=f"{len(positive)} of the 8 findings are positive"))
        elif any(labels.get(name) == "-1" for name in FINDINGS_8X200):
            problems.append(RowProblem(where=where, what="an uncertain finding"))
        else:
            labels["finding"] = positive[0]
            yield reader.pair(cells["Path"], "candidate", labels, where)
    for line, cells in read_rows(folder / "query.csv", "Path", on_bad_row=on_bad_row):
        where, finding = f"query.csv, line {line}", cells.get("Variable", "").strip()
        if finding in FINDINGS_8X200:
            yield reader.pair(cells["Path"], "query", {"finding": finding}, where)
        else:
            problems.append(RowProblem(where=where, what="a finding that is none of the 8"))


def read_text_queries(root: Path) -> list[tuple[str, str]]:
    """(finding, text) of the text queries, in the order of the file.

    Raises:
        ManifestError: a finding that is none of the eight, or no such table.
    """
    queries = []
    for line, cells in read_rows(root / "text-retrieval" / "query.csv", "Text"):
        finding = cells.get("Variable", "").strip()
        if finding not in FINDINGS_8X200:
            raise ManifestError(
                "a finding that is none of the 8", where=f"query.csv, line {line}", hint="fetch it again"
            )
        queries.append((finding, cells["Text"].strip()))
    return queries


class _Reader:
    """Rows of the published tables to pairs."""

    def __init__(self, root: Path, problems: list[RowProblem]) -> None:
        self._finders = [ImageFinder(root)]
        self._problems = problems

    def pair(self, relative: str, split: str, labels: dict[str, str], where: str) -> Pair:
        relative = relative.strip()
        return Pair(
            pair_id=f"{split}:{relative}",
            image=chexpert_image(relative, self._finders, where, self._problems),
            caption="",
            image_id=relative,
            article=patient_of(relative),
            split=split,
            labels=labels,
        )
