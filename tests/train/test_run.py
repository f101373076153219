"""A whole run from the command line: what it writes, and that it can be used."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clinical_clip.model.checkpoint import load_model
from clinical_clip.train.checkpoint import CheckpointStore
from clinical_clip.train.config import with_changes
from clinical_clip.train.log import Table, read_table
from clinical_clip.train.loop import train
from clinical_clip.train.optim import build_optimizer, learning_rate_factor
from clinical_clip.train.recipes import recipe, smoke_recipes
from tests.cli.conftest import cli as cli  # noqa: PLC0414
from tests.train.conftest import Runs


def test_a_run_from_the_command_line(cli: Callable[..., Any], manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ("train", "smoke-convirt", "--data", manifest, "--out", out, "--device", "cpu", "--seed", 7)
    done = cli(*arguments)
    assert done.code == 0, done.err
    assert "8 steps" in done.err
    best = CheckpointStore(out / "checkpoints", keep=2).best()
    assert best is not None
    rows = read_table(out / "validation.csv")
    assert best[1].validation["loss"] == min(row["loss"] for row in rows)
    card = (out / "card.md").read_text()
    assert "erases left and right" in card
    assert re.search(r"captions seen and cut .* 0 of 64", card)
    facts = json.loads((out / "run.json").read_text())
    assert facts["data"]["train"]["pairs"] == 36
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((out / "tensorboard").glob("events*"))
    model = load_model(out / "model")
    assert facts["model_sha256"] in card
    assert model.retrieval_features(torch.zeros(1, 3, 64, 64)).norm().item() == pytest.approx(1.0)
    again = cli(*arguments)
    assert again.code == 0
    assert len(read_table(out / "steps.csv")) == 8


def test_mistakes_are_named(cli: Callable[..., Any], manifest: Path, tmp_path: Path) -> None:
    assert "no recipe 'clip'" in cli("train", "clip", "--data", manifest, "--out", tmp_path).err
    assert "no pairs to learn from" in cli("train", "smoke-clip-rn", "--out", tmp_path).err
    missing = cli("train", "clip-rn50", "--data", manifest, "--out", tmp_path, "--weights", tmp_path)
    assert missing.code != 0
    assert "RN50.pt is missing" in missing.err
    assert "openaipublic" in missing.err


def test_recipes_are_listed(cli: Callable[..., Any]) -> None:
    out = cli("train", "list").out
    assert all(name in out for name in (*smoke_recipes(), "clinical-clip-vit-b-32", "convirt-random"))


def test_no_epochs_keep_the_starting_weights(runs: Runs) -> None:
    config = with_changes(recipe("smoke-clip-vit"), epochs=0)
    parts = {"data": runs.made.split("train"), "validation": runs.made.split("validation")}
    result = train(config, out=runs.folder / "run", device="cpu", **parts)
    assert result.steps == 0
    assert result.validation["loss"] > 0
    start = config.model.build(seed=config.seed).state_dict()
    kept = load_model(runs.folder / "run" / "model").state_dict()
    assert all(torch.equal(kept[name], start[name]) for name in start)


def test_images_alone_are_kept_and_not_trained(runs: Runs) -> None:
    from dataclasses import replace

    from clinical_clip.errors import OptionError

    model = replace(recipe("smoke-clip-vit").model, text=None, logit_scale=None)
    config = with_changes(recipe("smoke-clip-vit"), model=model, epochs=0)
    parts = {"data": runs.made, "validation": runs.made, "device": "cpu"}
    assert train(config, out=runs.folder / "run", **parts).status == "done"
    assert load_model(runs.folder / "run" / "model").text is None
    with pytest.raises(OptionError, match="learns nothing from captions"):
        train(with_changes(config, epochs=1), out=runs.folder / "other", **parts)


def test_tables_drop_what_is_past_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    table = Table(path, ("step", "loss"), step=0)
    for step in range(1, 6):
        table.write({"step": step, "loss": step / 3})
    table.close()
    with path.open("a") as stream:
        stream.write("6,0.")  # torn by a kill: reads as 0.0, and is past the checkpoint
    resumed = Table(path, ("step", "loss"), step=3)
    resumed.write({"step": 4, "loss": None})
    resumed.close()
    rows = read_table(path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[1]["loss"] == 2 / 3
    assert rows[3]["loss"] != rows[3]["loss"]


def test_rates_of_groups() -> None:
    config = with_changes(
        recipe("smoke-clinical-clip-vit"), optim__lr=1e-3, optim__lr_scales=(("heads", 10.0), ("text", 0.5))
    )
    optimizer = build_optimizer(config.optim, config.model.build(seed=0))
    rates = {group["name"].removesuffix("-no-decay"): group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({"image": 1e-3, "text": 5e-4, "heads": 1e-2, "logit_scale": 1e-3})
    assert learning_rate_factor(config.optim, 10**6, 10) == 1.0
