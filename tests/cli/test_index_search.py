from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinical_clip.cli.index import open_or_create
from clinical_clip.data.source import open_source
from clinical_clip.embed.encoders import open_encoder
from clinical_clip.index.ingest import ingest
from tests.cli.conftest import Outcome
from tests.embed.pictures import write_pictures

Cli = Callable[..., Outcome]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``LIBRARY``, for tests that change nothing in it."""
    folder = tmp_path_factory.mktemp("made")
    encoder = open_encoder()
    with open_or_create(folder / "LIBRARY", encoder) as library:
        ingest(library, open_source(write_manifest(folder)), encoder)
    return folder


def write_manifest(folder: Path) -> Path:
    """12 pictures of 4 patients, ct and mr by turns, with years."""
    names = write_pictures(folder / "in", 12)
    path = folder / "in" / "manifest.csv"
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["image", "modality", "year", "patient_id", "caption"])
        for number, name in enumerate(names):
            modality = "ct" if number % 2 else "mr"
            rows.writerow([name, modality, 2010 + number, f"P{number // 3}", f"picture {number}"])
    return path


def hits(outcome: Outcome) -> list[dict[str, object]]:
    assert outcome.code == 0, outcome.err
    return list(json.loads(outcome.out)["hits"])


def test_add_search_remove_verify(cli: Cli, manifest: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    added = json.loads(cli("index", "add", library, manifest, "--json").out)
    assert added == {
        **{"added": 12, "updated": 0, "unchanged": 0, "rejected": 0, "left_out": 0, "images": 12}
    }
    again = json.loads(cli("index", "add", library, manifest, "--json").out)
    assert (again["added"], again["unchanged"], again["images"]) == (0, 12, 12)

    image = tmp_path / "in" / "a" / "picture000.png"
    found = hits(cli("search", library, "--image", image, "--include-self", "--json"))
    assert found[0]["relative_path"] == "a/picture000.png"
    assert found[0]["score"] == pytest.approx(1, abs=1e-3)
    assert [hit["rank"] for hit in found] == list(range(1, 11))
    without = hits(cli("search", library, "--image", image, "--json"))
    assert "a/picture000.png" not in {hit["relative_path"] for hit in without}

    by_id = hits(cli("search", library, "--id", "a/picture000.png", "-k", 3, "--json"))
    assert [hit["image_id"] for hit in by_id] == [hit["image_id"] for hit in without[:3]]

    filtered = hits(cli("search", library, "--image", image, "--where", "modality=CT", "--json"))
    assert {hit["fields"]["modality"] for hit in filtered} == {"ct"}  # type: ignore[index]
    ranged = hits(cli("search", library, "--image", image, "--where", "year=2012..2014", "--json"))
    assert {hit["fields"]["year"] for hit in ranged} <= {2012, 2013, 2014}  # type: ignore[index]
    assert 1 <= len(ranged) <= 3

    others = hits(cli("search", library, "--id", "a/picture000.png", "--exclude-same-patient", "--json"))
    assert {hit["fields"]["caption"] for hit in others} == {f"picture {n}" for n in range(3, 12)}  # type: ignore[index]

    removed = cli("index", "remove", library, "a/picture000.png")
    assert removed.code == 0
    assert "1 removed; 11 images" in removed.err
    gone = cli("search", library, "--id", "a/picture000.png")
    assert (gone.code, "no image of the index" in gone.err) == (2, True)
    cli("index", "remove", library, "--where", "modality=ct")
    assert json.loads(cli("index", "info", library, "--json").out)["images"] == 5
    assert cli("index", "rebuild", library).code == 0
    verified = cli("index", "verify", library)
    assert (verified.code, verified.out.splitlines()[-1]) == (0, "clean")


def test_several_images_with_weights(cli: Cli, manifest: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    cli("index", "add", library, manifest)
    both = ("--id", "a/picture000.png", "--id", "b/picture001.png")
    one = hits(cli("search", library, *both, "--weights", "1,0", "--json"))
    alone = hits(cli("search", library, both[0], both[1], "-k", 12, "--json"))
    kept = [hit["image_id"] for hit in alone if hit["relative_path"] != "b/picture001.png"]
    assert [hit["image_id"] for hit in one] == kept[: len(one)]
    assert cli("search", library, *both, "--weights", "1").code == 2
    assert "numbers" in cli("search", library, *both, "--weights", "1,x").err


def test_changed_labels_are_updated_without_encoding(cli: Cli, manifest: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    cli("index", "add", library, manifest)
    manifest.write_text(manifest.read_text().replace(",ct,", ",us,"))
    counts = json.loads(cli("index", "add", library, manifest, "--json").out)
    assert (counts["added"], counts["updated"], counts["unchanged"]) == (0, 6, 6)
    found = hits(cli("search", library, "--id", "a/picture000.png", "--where", "modality=us", "--json"))
    assert len(found) == 6


def test_ack_log_names_everything_that_verify_then_finds(cli: Cli, manifest: Path, tmp_path: Path) -> None:
    library, log = tmp_path / "library", tmp_path / "ack.log"
    cli("index", "add", library, manifest, "--ack-log", log)
    assert len(log.read_text().splitlines()) == 12
    assert "12 acknowledged, 0 missing" in cli("index", "verify", library, "--ack-log", log).out
    log.write_text(log.read_text() + "sha256:never#0\n")
    missing = cli("index", "verify", library, "--ack-log", log)
    assert (missing.code, "13 acknowledged, 1 missing" in missing.out) == (1, True)


def test_bad_files_are_named_and_the_run_goes_on(cli: Cli, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 4)
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (tmp_path / "in" / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    log = tmp_path / "rejected.csv"
    done = cli("index", "add", tmp_path / "library", tmp_path / "in", "--rejections", log, "--json")
    assert done.code == 0
    assert (json.loads(done.out)["added"], json.loads(done.out)["rejected"]) == (4, 2)
    assert "broken.png" in done.err
    with log.open(newline="") as stream:
        assert {row["name"] for row in csv.DictReader(stream)} == {"broken.png", "drawing.svg"}


def test_sheet_shows_query_and_results(cli: Cli, manifest: Path, tmp_path: Path) -> None:
    library, sheet = tmp_path / "library", tmp_path / "sheet.png"
    cli("index", "add", library, manifest)
    query = tmp_path / "in" / "a" / "picture000.png"
    assert cli("search", library, "--image", query, "--sheet", sheet, "-k", 3).code == 0
    picture = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    shown = np.asarray(Image.open(query).convert("RGB"))
    side = 220
    small = np.asarray(Image.fromarray(shown).resize((96, 96))).astype(int)
    assert shown.shape[:2] == (96, 96)  # smaller than a cell, so drawn as it is, in the middle
    top, left = 12 + 34 + (side - 96) // 2, 12 + (side - 96) // 2
    assert np.abs(picture[top : top + 96, left : left + 96] - small).max() == 0


def test_a_library_of_another_encoder_is_refused(cli: Cli, manifest: Path, tmp_path: Path) -> None:
    import shutil

    import clinical_clip

    cli("index", "add", tmp_path / "library", manifest)
    weights = Path(clinical_clip.__file__).parent / "weights" / "imagenet-lite0"
    other = shutil.copytree(weights, tmp_path / "other")
    card = json.loads((other / "encoder.json").read_text())
    card["preprocessing"]["resize"] = "squash"
    (other / "encoder.json").write_text(json.dumps(card))
    query = tmp_path / "in" / "a" / "picture000.png"
    refused = cli("search", tmp_path / "library", "--image", query, "--encoder", other)
    assert refused.code == 2
    assert "made with preprocessing" in refused.err
    assert cli("index", "add", tmp_path / "library", manifest, "--encoder", other).code == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["search", "nowhere", "--id", "x"], "no index there"),
        (["search", "LIBRARY"], "nothing to ask by"),
        (["search", "LIBRARY", "--id", "no-such"], "no image of the index has that id"),
        (["search", "LIBRARY", "--image", "no-such.png"], "no such image file"),
        (["search", "LIBRARY", "--image", "LIBRARY/catalogue.sqlite"], "cannot be a query"),
        (["search", "LIBRARY", "--id", "a/picture000.png", "-k", "0"], "k is 0"),
        (["search", "LIBRARY", "--id", "a/picture000.png", "-k", "-1"], "k is -1"),
        (["search", "LIBRARY", "--id", "a/picture000.png", "--where", "modalty=CT"], "modality"),
        (["search", "LIBRARY", "--id", "a/picture000.png", "--where", "x'; DROP TABLE items"], "parse"),
        (["search", "LIBRARY", "--id", "a/picture000.png", "--group-by", "patient"], "no grouping"),
        (["index", "add", "new", "no-such-folder"], "no such file or folder"),
        (["index", "remove", "LIBRARY"], "nothing named"),
        (["index", "verify", "nowhere"], "no index there"),
        (["embed", "no-such-folder", "--out", "x.npz"], "no such file or folder"),
        (["embed", "LIBRARY", "--out", "x.txt"], "unexpected file name"),
        (["embed", "LIBRARY", "--out", "x.npz", "--encoder", "none"], "no encoder 'none'"),
        (["embed", "LIBRARY", "--out", "x.npz", "--precision", "f8"], "no precision"),
    ],
)
def test_every_error_says_what_where_and_what_to_do(
    cli: Cli,
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(made)
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert says in outcome.err
    lines = outcome.err.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["error", "where", "do"]
    assert not (made / "new").exists()


def test_k_of_a_billion_gives_all_there_are(cli: Cli, made: Path) -> None:
    found = hits(cli("search", made / "LIBRARY", "--id", "a/picture000.png", "-k", 10**9, "--json"))
    assert len(found) == 11
