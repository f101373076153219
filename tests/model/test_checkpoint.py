from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clinical_clip.errors import TextUnsupported, WeightsError
from clinical_clip.model.checkpoint import load_model, save_model
from clinical_clip.model.config import DualEncoderConfig, HeadConfig, ImageTowerConfig, LogitScaleConfig
from clinical_clip.model.dual import DualEncoder
from clinical_clip.model.self_test import known_answer
from tests.model.make import TEXTS, bert_config, clip_config, peer, write_archive

CONFIGS = {
    "clip-resnet": clip_config("tiny-resnet"),
    "clip-vit": clip_config("tiny-vit", retrieval="before_head"),
    "bert": bert_config(),
    "siglip": bert_config(logit_scale=LogitScaleConfig(init=2.3, bias=-10.0)),
    "convirt": bert_config(
        "tiny-resnet",
        image_head=HeadConfig(kind="mlp", width=16),
        text_head=HeadConfig(kind="mlp", width=16, hidden=24),
        logit_scale=None,
        retrieval="before_head",
    ),
    "image": DualEncoderConfig(
        image=ImageTowerConfig(architecture="tiny-resnet"), text=None, logit_scale=None
    ),
}


def moved(config: DualEncoderConfig) -> DualEncoder:
    """A model that is not where a build starts."""
    model = config.build(seed=7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_model_answers_the_same(name: str, tmp_path: Path) -> None:
    model = moved(CONFIGS[name])
    digest = save_model(model, tmp_path / "m")
    assert model.training
    again = load_model(tmp_path / "m")
    assert not again.training
    before, after = known_answer(model), known_answer(again)
    assert all(torch.equal(after[part], before[part]) for part in before)
    assert digest == save_model(again, tmp_path / "n")
    assert again.preprocess.digest == model.preprocess.digest


def test_a_saved_model_needs_nothing_of_what_it_started_from(tmp_path: Path) -> None:
    spec = write_archive(tmp_path / "start" / "x.pt", peer("tiny-vit"))
    base = clip_config()
    config = replace(
        base,
        image=replace(base.image, weights=spec),
        text=replace(base.text, weights=spec),
        logit_scale=LogitScaleConfig(init=None),
    )
    model = config.build()
    save_model(model, tmp_path / "m")
    shutil.rmtree(tmp_path / "start")
    shutil.move(tmp_path / "m", tmp_path / "elsewhere")
    assert load_model(tmp_path / "elsewhere").logit_scale.item() == 3.25


@pytest.mark.parametrize(("name", "apart"), [("convirt", True), ("bert", False)])
def test_spaces_of_vectors_have_their_own_digests(name: str, apart: bool, tmp_path: Path) -> None:
    save_model(CONFIGS[name].build(), tmp_path / "m")
    features = json.loads((tmp_path / "m" / "model.json").read_text())["features"]
    assert (features["retrieval"] != features["shared"]) == apart


def test_a_bert_takes_its_tokenizer_along(tmp_path: Path) -> None:
    model = bert_config().build()
    save_model(model, tmp_path / "m")
    again = load_model(tmp_path / "m")
    assert torch.equal(again.tokenize(TEXTS).ids_BL, model.tokenize(TEXTS).ids_BL)


@pytest.mark.parametrize("name", ["model.safetensors", "known_answer.safetensors", "text/config.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_is_named(name: str, damage: str, tmp_path: Path) -> None:
    save_model(bert_config().build(), tmp_path / "m")
    path = tmp_path / "m" / name
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[-1] ^= 1
        path.write_bytes(content if damage == "flip" else content[:-5])
    with pytest.raises(WeightsError, match=name):
        load_model(tmp_path / "m")


def test_the_self_test_finds_another_computation(tmp_path: Path) -> None:
    save_model(bert_config().build(), tmp_path / "m")
    card = tmp_path / "m" / "model.json"
    values = json.loads(card.read_text())
    values["config"]["text"]["pooling"] = "cls"  # the same weights read otherwise
    card.write_text(json.dumps(values))
    with pytest.raises(WeightsError, match=r"self-test failed|do not fit"):
        load_model(tmp_path / "m")


def test_the_self_test_finds_another_preprocessing(tmp_path: Path) -> None:
    save_model(clip_config().build(), tmp_path / "m")
    card = tmp_path / "m" / "model.json"
    values = json.loads(card.read_text())
    values["config"]["image"]["preprocessing"] = {
        "size": 32,
        "resize": "crop",
        "interpolation": "bicubic",
        "mean": [0.0, 0.0, 0.9],
        "std": [0.1, 1.0, 1.0],
    }
    card.write_text(json.dumps(values))
    with pytest.raises(WeightsError, match="self-test failed"):
        load_model(tmp_path / "m")
    assert load_model(tmp_path / "m", self_test=False).preprocess.std == (0.1, 1.0, 1.0)


def test_files_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    save_model(clip_config().build(), tmp_path / "m")
    card = tmp_path / "m" / "model.json"
    values = json.loads(card.read_text())
    values["sha256"]["../secret"] = "0"
    (tmp_path / "secret").write_text("x")
    card.write_text(json.dumps(values))
    with pytest.raises(WeightsError, match="secret is missing"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"revision": 99, "sha256": {}}'])
def test_what_is_no_model_folder_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "model.json").write_text(content)
    with pytest.raises(WeightsError):
        load_model(tmp_path)


def test_an_image_tower_alone_has_no_text() -> None:
    model = CONFIGS["image"].build()
    with pytest.raises(TextUnsupported):
        model.tokenize(["x"])
