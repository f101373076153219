"""Manifests of real files, from rows to reports, through the command line."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from clinical_clip.cli.evaluate import evaluate_app
from clinical_clip.errors import EncoderError, EvaluationError, ManifestError, OptionError, StoreError
from clinical_clip.evaluate.manifest import evaluate_manifest
from clinical_clip.evaluate.methods import Baselines, parse_baselines
from clinical_clip.evaluate.names import CHANCE, PIXELS, RANDOM
from clinical_clip.evaluate.protocol import GalleryRule, Protocol
from clinical_clip.evaluate.report import to_csv, to_json, write_report
from clinical_clip.evaluate.vectors import load_vectors, save_vectors

PROTOCOL = Protocol(
    labels=(("modality",), ("organ",), ("modality", "organ")),
    gallery=GalleryRule.OTHER_GROUP,
    ks=(1, 3),
    replicates=50,
)
NO_FLOORS = Baselines(random=False, pixels=False)


@pytest.fixture
def library(tmp_path):
    """32 pictures: stripes along or across (modality), coarse or fine (organ); two of each patient."""
    rng, rows = np.random.default_rng(0), []
    for i in range(32):
        modality, organ = ("ct", "mr")[i % 2], ("chest", "head")[i // 2 % 2]
        wave = np.sin(np.arange(48) * (0.3 if organ == "chest" else 0.6))
        image = np.tile(wave, (48, 1)) if modality == "ct" else np.tile(wave[:, None], (1, 48))
        pixels = 120 + 80 * image + rng.normal(0, 20, (48, 48))
        name = f"{modality}/{i:02}.png"
        (tmp_path / "images" / modality).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "images" / name)
        rows.append(
            {
                "image": name,
                "modality": modality,
                "organ": organ,
                "split_group": f"g{i // 8}{i % 4}",
                "source": f"s{i % 3}",
                "split": "test" if i >= 4 else "train",
            }
        )
    write_rows(tmp_path / "m.csv", rows)
    return tmp_path


def write_rows(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def stored(library):
    """Vectors that tell the modality and nothing else."""
    names = [row["image"] for row in read_rows(library / "m.csv")]
    rng = np.random.default_rng(3)
    vectors = np.array([[1.0, 0.0] if name.startswith("ct") else [0.0, 1.0] for name in names])
    save_vectors(
        library / "v.npz", names, np.hstack([vectors, rng.normal(0, 0.01, (32, 4))]).astype(np.float32)
    )
    return library / "v.npz"


def command(library, *options):
    arguments = ["manifest", str(library / "m.csv"), "--image-root", str(library / "images")]
    defaults = ["--labels", "modality,organ,modality+organ", "--gallery", "other-group", "--k", "1,3"]
    return CliRunner().invoke(
        evaluate_app, [*arguments, *defaults, "--bootstrap", "50", *options], catch_exceptions=True
    )


def test_floors_and_stored_vectors_side_by_side(library, stored):
    found = evaluate_manifest(library / "m.csv", PROTOCOL, image_root=library / "images", vectors=stored)
    assert (found.images, found.rejections) == (32, ())
    assert [m.name for m in found.methods] == ["v", PIXELS, RANDOM]
    modality, organ, both = found.settings
    assert modality.method("v").score("P@3").micro.value == 1.0
    assert modality.method(PIXELS).score("P@3").micro.value == 1.0
    assert both.method(PIXELS).score("P@3").micro.value > 0.9
    assert organ.method("v").score("P@3").micro.value < 0.8
    assert both.method(CHANCE).score("P@3").micro.value == pytest.approx(6 / 30)
    assert modality.queries == 32
    assert modality.clusters == 16


def test_the_shipped_encoder_beats_chance_and_its_vectors_can_be_kept(library):
    saved = library / "kept" / "v.npz"
    found = evaluate_manifest(
        library / "m.csv",
        PROTOCOL,
        image_root=library / "images",
        baselines=NO_FLOORS,
        save_vectors_to=saved,
    )
    name = found.methods[0].name
    assert found.methods[0].digest
    assert found.settings[0].method(name).score("P@1").micro.value > 0.8
    again = evaluate_manifest(
        library / "m.csv", PROTOCOL, image_root=library / "images", vectors=saved, baselines=NO_FLOORS
    )
    kept = load_vectors(saved)
    assert kept.ids == sorted(kept.ids)
    for one, other in zip(found.settings, again.settings, strict=True):
        assert one.methods[0].scores == other.methods[0].scores


def test_rows_in_another_order_change_nothing(library, stored):
    first = evaluate_manifest(library / "m.csv", PROTOCOL, image_root=library / "images", vectors=stored)
    rows = read_rows(library / "m.csv")
    write_rows(library / "m.csv", rows[::-1])
    second = evaluate_manifest(library / "m.csv", PROTOCOL, image_root=library / "images", vectors=stored)
    assert first.settings == second.settings


def test_an_unreadable_image_is_named_and_left_out_for_every_method(library, stored):
    (library / "images" / "ct" / "04.png").write_bytes(b"no picture")
    found = evaluate_manifest(library / "m.csv", PROTOCOL, image_root=library / "images", vectors=stored)
    assert found.images == 31
    assert [r.name for r in found.rejections] == ["ct/04.png"]
    assert {s.queries for s in found.settings} == {31}


def test_without_a_group_column_images_are_grouped_by_patient_and_no_id_is_shown(library, stored):
    rows = read_rows(library / "m.csv")
    for row in rows:
        row["patient_id"] = "SECRET-" + row.pop("split_group")
    write_rows(library / "m.csv", rows)
    found = evaluate_manifest(library / "m.csv", PROTOCOL, image_root=library / "images", vectors=stored)
    assert found.protocol.group_column == "patient"
    assert found.settings[0].clusters == 16
    for path in write_report(found, library / "out"):
        assert b"SECRET" not in path.read_bytes()


def test_report_files_agree(library, stored):
    found = evaluate_manifest(library / "m.csv", PROTOCOL, image_root=library / "images", vectors=stored)
    paths = write_report(found, library / "out")
    assert sorted(p.name for p in paths) == sorted(os.listdir(library / "out"))
    document = json.loads((library / "out" / "results.json").read_text())
    table = read_rows(library / "out" / "results.csv")
    by_key = {(r["labels"], r["method"], r["metric"], r["average"]): r for r in table}
    for setting in document["settings"]:
        for method in setting["methods"]:
            for score in method["scores"]:
                row = by_key[setting["name"], method["method"], score["metric"], "micro"]
                assert float(row["percent"]) == pytest.approx(score["micro"]["value"], abs=1e-4)
                assert 0 <= score["micro"]["low"] <= score["micro"]["value"] <= score["micro"]["high"] <= 100
    assert document["settings"][0]["comparisons"][0]["micro_p"] <= 1.0
    page = (library / "out" / "results.md").read_text()
    assert "| v | micro | 100.0 [100.0, 100.0] |" in page
    assert "32 queries in 16 groups" in page
    with Image.open(library / "out" / "precision.png") as plot:
        assert min(plot.size) > 500
        assert len(plot.convert("RGB").getcolors(1 << 24)) > 20


def test_a_report_that_cannot_be_written_leaves_nothing(library, stored):
    found = evaluate_manifest(
        library / "m.csv", PROTOCOL, image_root=library / "images", vectors=stored, baselines=NO_FLOORS
    )
    (library / "file").write_text("in the way")
    with pytest.raises(StoreError):
        write_report(found, library / "file")
    assert (library / "file").read_text() == "in the way"


def test_names_cannot_become_formulas_or_markup(library, stored):
    rows = read_rows(library / "m.csv")
    for row in rows:
        row["=cmd|x"] = row.pop("organ")
        row["modality"] = "<b>|" + row["modality"]
    write_rows(library / "m.csv", rows)
    protocol = Protocol(labels=(("modality",), ("=cmd|x",)), ks=(1,), replicates=0)
    found = evaluate_manifest(
        library / "m.csv", protocol, image_root=library / "images", vectors=stored, baselines=NO_FLOORS
    )
    assert not any(line.startswith(("=", "@", "+")) for line in to_csv(found).splitlines())
    assert "null" in to_json(found)  # no resampling, no interval
    page = next(p for p in write_report(found, library / "out") if p.suffix == ".md").read_text()
    assert "<b>" not in page.replace("\\<b>", "")


def test_command_prints_tables(library, stored):
    result = command(library, "--vectors", str(stored), "--out", str(library / "out"))
    assert result.exit_code == 0, result.output
    for text in (
        "modality+organ, gallery other-group",
        "32x32 pixels",
        "random",
        "chance",
        "100.0",
        "left out",
    ):
        assert text in result.output
    assert (library / "out" / "precision.png").exists()


def test_command_prints_json(library, stored):
    other = library / "other.npz"
    kept = load_vectors(stored)
    save_vectors(other, kept.ids, np.ascontiguousarray(kept.vectors_ND[:, ::-1]))
    options = ("--vectors", str(stored), "--compare", f"random,{other}", "--json")
    result = command(library, *options, "--split", "test", "--rows", "source=s0", "--rows", "source=s1")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [m["name"] for m in document["methods"]] == ["v", "other", RANDOM]
    assert document["unit"] == "percent"
    assert document["rows"] == ["source=s0", "source=s1", "split=test"]
    assert 0 < document["images"] < 28
    assert set(document["settings"][0]["sources"]) == {"s0", "s1"}


def test_the_seed_repeats_a_run(library, stored):
    def run(seed):
        return command(
            library, "--vectors", str(stored), "--compare", "random", "--json", "--seed", seed
        ).stdout

    assert run("1") == run("1")
    assert run("1") != run("2")


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        (("--labels", "modality,region"), ManifestError, "no column 'region'"),
        (("--k", "0"), OptionError, "at least 1"),
        (("--k", "5,x"), OptionError, "whole numbers"),
        (("--k", ","), OptionError, "at least 1"),
        (("--split", "nothing"), EvaluationError, "no row is left"),
        (("--rows", "split"), OptionError, "COLUMN=VALUE"),
        (("--rows", "modality=ct", "--labels", "modality"), EvaluationError, "1 class of modality"),
        (("--k", "30"), EvaluationError, "no query of modality counts"),
        (("--source-column", "site", "--gallery", "other-source"), ManifestError, "no column 'site'"),
        (("--group-column", "site"), ManifestError, "no column 'site'"),
        (("--compare", "nothing"), OptionError, "cannot compare"),
        (("--bootstrap", "-1"), OptionError, "negative"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_said(library, stored, options, kind, text):
    result = command(library, "--vectors", str(stored), *options)
    assert isinstance(result.exception, kind), result.output
    assert text in str(result.exception)
    assert result.exception.hint
    assert not result.stdout


def test_an_encoder_that_does_not_exist_is_said(library):
    result = command(library, "--encoder", "no-such-encoder", "--compare", "none")
    assert isinstance(result.exception, EncoderError)


@pytest.mark.parametrize("text", ["", ",", "none,random", "pixels,other"])
def test_baselines_that_are_unknown_are_refused(text):
    with pytest.raises(OptionError):
        parse_baselines(text)


def test_baselines_of_one_name_are_refused(library, stored):
    (library / "again").mkdir()
    twice = Baselines(random=False, pixels=False, files=(stored, library / "again" / "v.npz"))
    (library / "again" / "v.npz").write_bytes(stored.read_bytes())
    with pytest.raises(OptionError, match="one name"):
        evaluate_manifest(
            library / "m.csv", PROTOCOL, image_root=library / "images", vectors=stored, baselines=twice
        )


SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.mark.skipif(not (SHARED / "manifest.csv").exists(), reason="no ../shared/data beside the checkout")
def test_real_images_of_other_sources_are_found_better_than_by_chance(tmp_path):
    names = {
        "knee_prosthesis_xray",
        "head_ct",
        "seg_fetal-head",
        "seg_liver-tumor",
        "hand_xray",
        "seg_spleen",
    }
    rows = [r for r in read_rows(SHARED / "manifest.csv") if r["source"] in names and r["split"] == "test"]
    keep = ("image", "modality", "source", "split_group")
    write_rows(tmp_path / "m.csv", [{column: row[column] for column in keep} for row in rows])
    protocol = Protocol(labels=(("modality",),), gallery=GalleryRule.OTHER_SOURCE, ks=(5,), replicates=100)
    found = evaluate_manifest(tmp_path / "m.csv", protocol, image_root=SHARED / "images")
    setting = found.settings[0]
    assert (found.images, found.rejections) == (len(rows), ())
    assert setting.queries + setting.left_out.few_relevant == len(rows)
    score, chance = (setting.method(name).score("P@5").micro for name in (found.methods[0].name, CHANCE))
    assert score.low > chance.high
