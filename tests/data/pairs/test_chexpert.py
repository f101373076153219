"""CheXpert, CheXpert Plus, and ConVIRT's 8x200."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.pairs.made import write_picture, write_table

from clinical_clip.data.pairs import open_pairs
from clinical_clip.data.pairs.chexpert import CHEXPERT_LABELS
from clinical_clip.data.pairs.chexpert_8x200 import FINDINGS_8X200, read_text_queries
from clinical_clip.errors import ManifestError

ROOT = "CheXpert-v1.0-small"


def label_row(path: str, **labels: str) -> dict[str, str]:
    head = {"Path": path, "Sex": "Male", "Age": "60", "Frontal/Lateral": "Frontal", "AP/PA": "AP"}
    given = {name.replace("_", " "): value for name, value in labels.items()}
    return {**head, **dict.fromkeys(CHEXPERT_LABELS, ""), **given}


def train_path(number: int) -> str:
    return f"{ROOT}/train/patient{number:05d}/study1/view1_frontal.jpg"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / ROOT
    for split in ("train", "valid"):
        rows = [
            label_row(f"{ROOT}/{split}/patient00001/study1/view1_frontal.jpg", Edema="1.0", Fracture="-1.0"),
            label_row(f"{ROOT}/{split}/patient00002/study1/view1_frontal.jpg", No_Finding="1.0", Edema="0.0"),
            label_row(f"{ROOT}/{split}/patient00003/study1/view1_frontal.jpg"),
        ]
        write_table(root / f"{split}.csv", rows)
        for row in rows[:2]:
            write_picture(tmp_path / row["Path"])
    return root


def test_labels_and_splits(folder: Path) -> None:
    pairs = open_pairs(folder, require_captions=False)
    assert pairs.splits == ("train", "validation")
    assert (len(pairs), len(pairs.missing)) == (4, 2)
    first = pairs.pairs[0]
    assert first.article == "patient00001"
    assert first.labels == {"Edema": "1", "Fracture": "-1", "view": "Frontal", "projection": "AP"}
    assert first.caption == ""


def test_captions_only_when_asked_and_marked(folder: Path) -> None:
    with pytest.raises(ManifestError, match="none of the 6 images has a caption"):
        open_pairs(folder)
    pairs = open_pairs(folder, synthetic=True)
    assert [pair.caption for pair in pairs.split("train")] == [
        "Frontal chest radiograph: edema.",
        "Frontal chest radiograph: no finding.",
    ]
    assert pairs.n_synthetic == len(pairs)


@pytest.mark.parametrize("images", [".", ROOT])
def test_the_folder_above_or_itself(folder: Path, images: str) -> None:
    found = open_pairs(folder / "train.csv", images=folder.parent / images, require_captions=False)
    assert len(found) == 2


def test_another_name_of_the_release(folder: Path) -> None:
    folder.rename(folder.parent / "elsewhere")
    assert len(open_pairs(folder.parent / "elsewhere", require_captions=False)) == 4


def test_chexpert_plus_has_reports(tmp_path: Path) -> None:
    path = "train/patient00001/study1/view1_frontal.jpg"
    write_picture(tmp_path / "PNG" / path.replace("jpg", "png"))
    rows = [{"path_to_image": path, "section_findings": "Clear\nlungs.", "section_impression": "Normal."}]
    write_table(tmp_path / "df_chexpert_plus_240401.csv", rows)
    (pair,) = open_pairs(tmp_path)
    assert (pair.caption, pair.split, pair.article) == ("Clear lungs. Normal.", "train", "patient00001")
    assert not pair.synthetic


@pytest.fixture
def retrieval(tmp_path: Path) -> Path:
    candidates = [
        label_row(
            f"{ROOT}/train/patient{number:05d}/study1/view1_frontal.jpg", **{name.replace(" ", "_"): "1.0"}
        )
        for number, name in enumerate(FINDINGS_8X200)
    ]
    candidates.append(label_row(train_path(10000), Edema="1.0", Pneumonia="1.0"))
    candidates.append(label_row(train_path(10001), Edema="1.0", Fracture="-1.0"))
    write_table(tmp_path / "image-retrieval" / "candidate.csv", candidates)
    queries = [{"Variable": name, "Path": candidates[0]["Path"]} for name in ("Edema", "Gout")]
    write_table(tmp_path / "image-retrieval" / "query.csv", queries)
    write_table(
        tmp_path / "text-retrieval" / "query.csv",
        [{"Variable": "Fracture", "Text": "A fracture is present."}],
    )
    for row in candidates:
        write_picture(tmp_path / "images" / row["Path"])
    return tmp_path


def test_8x200(retrieval: Path) -> None:
    pairs = open_pairs(retrieval, images=retrieval / "images", require_captions=False)
    candidates, queries = pairs.split("candidate"), pairs.split("query")
    assert [pair.labels["finding"] for pair in candidates] == list(FINDINGS_8X200)
    assert [pair.labels["finding"] for pair in queries] == ["Edema"]
    assert queries.pairs[0].image_id == candidates.pairs[0].image_id
    assert [str(one) for one in pairs.problems] == [
        "candidate.csv, line 10: 2 of the 8 findings are positive",
        "candidate.csv, line 11: an uncertain finding",
        "query.csv, line 3: a finding that is none of the 8",
    ]


def test_text_queries(retrieval: Path) -> None:
    assert read_text_queries(retrieval) == [("Fracture", "A fracture is present.")]
    write_table(retrieval / "text-retrieval" / "query.csv", [{"Variable": "Gout", "Text": "Gout."}])
    with pytest.raises(ManifestError, match=r"query.csv, line 2"):
        read_text_queries(retrieval)
