"""ROCOv2's CSV files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.pairs.made import write_picture, write_table

from clinical_clip.data.pairs import open_pairs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "valid", "test"):
        ids = [f"ROCOv2_2023_{split}_{number:06d}" for number in (1, 2)]
        captions = [{"ID": one, "Caption": f" CT, with a comma, of {one}. "} for one in ids]
        write_table(tmp_path / f"{split}_captions.csv", captions)
        concepts = [{"ID": ids[0], "CUIs": "C0040405;C0041618"}, {"ID": ids[1], "CUIs": ""}]
        write_table(tmp_path / f"{split}_concepts.csv", concepts)
        write_table(tmp_path / f"{split}_concepts_manual.csv", [{"ID": ids[0], "CUIs": "C0040405;C9999999"}])
        write_picture(tmp_path / (split if split != "test" else "test_images") / f"{ids[0]}.jpg")
    write_table(
        tmp_path / "cui_mapping.csv",
        [{"CUI": "C0040405", "Canonical name": "X-Ray Computed Tomography"}],
    )
    write_table(
        tmp_path / "license_information.csv",
        [
            {
                "ID": f"ROCOv2_2023_{split}_000001",
                "PMCID": f"PMC{number}",
                "Attribution": f"CC BY-NC [Someone et al. ({number})]",
                "Link": "https://www.ncbi.nlm.nih.gov/pmc/articles/",
            }
            for number, split in enumerate(("train", "valid", "test"))
        ],
    )
    return tmp_path


def test_all_splits(folder: Path) -> None:
    pairs = open_pairs(folder)
    assert pairs.splits == ("train", "validation", "test")
    assert pairs.missing == tuple(f"ROCOv2_2023_{split}_000002" for split in ("train", "valid", "test"))
    first = pairs.pairs[0]
    assert first.caption == "CT, with a comma, of ROCOv2_2023_train_000001."
    assert (first.cuis, first.article, first.licence) == (("C0040405", "C0041618"), "PMC0", "CC BY-NC")
    assert first.labels["manual_concepts"] == "X-Ray Computed Tomography;C9999999"
    assert not pairs.problems


def test_bad_rows_and_missing_files_are_listed(folder: Path) -> None:
    (folder / "test_concepts.csv").unlink()
    with (folder / "valid_captions.csv").open("a") as file:
        file.write("ROCOv2_2023_valid_000003\nROCOv2_2023_valid_000001,again\n,no id\n")
    pairs = open_pairs(folder, require_images=False)
    assert len(pairs) == 6
    assert [str(one) for one in pairs.problems] == [
        "valid_captions.csv, line 4: 1 cells under 2 columns",
        "valid_captions.csv, line 5: an id that an earlier line has",
        "valid_captions.csv, line 6: no id",
        "test_concepts.csv: no such file",
    ]


def test_images_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    images = tmp_path_factory.mktemp("images")
    write_picture(images / "valid" / "ROCOv2_2023_valid_000002.png")
    assert [pair.pair_id for pair in open_pairs(folder, images=images)] == ["ROCOv2_2023_valid_000002"]
