from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clinical_clip.errors import OptionError
from clinical_clip.model.config import DualEncoderConfig, HeadConfig, ImageTowerConfig, LogitScaleConfig
from clinical_clip.model.methods import ROWS, clinical_clip, clip, convirt, lite, row
from tests.model.make import bert_config, clip_config, pair_batch


def count(module: torch.nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    "config", [clip_config("tiny-resnet"), bert_config(), clip_config(retrieval="before_head")]
)
def test_retrieval_features_have_norm_one_and_the_width_that_is_said(config: DualEncoderConfig) -> None:
    model, image_BCHW, tokens = pair_batch(config, 4)
    model.eval()
    with torch.no_grad():
        found = model.retrieval_features(image_BCHW)
        assert found.shape == (4, model.retrieval_width)
        assert torch.allclose(found.norm(dim=1), torch.ones(4), atol=1e-6)
        assert torch.allclose(model.text_features(tokens).norm(dim=1), torch.ones(4), atol=1e-6)
        assert model.encode_image(image_BCHW).shape == (4, model.width) == model.encode_text(tokens).shape


def test_before_the_head_is_before_every_projection() -> None:
    model, image_BCHW, _ = pair_batch(clip_config(retrieval="before_head"), 2)
    assert model.retrieval_width == 64
    inner = model.image.inner(image_BCHW)
    assert torch.allclose(
        model.retrieval_features(image_BCHW), inner / inner.norm(dim=1, keepdim=True), atol=1e-6
    )


@pytest.mark.parametrize("config", [clip_config("tiny-resnet"), bert_config()])
def test_the_seed_decides_everything(config: DualEncoderConfig) -> None:
    torch.manual_seed(1)
    first = config.build(seed=5).state_dict()
    before = torch.get_rng_state()
    second = config.build(seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    other = config.build(seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_head_does_not_depend_on_what_the_towers_drew() -> None:
    tiny, other = bert_config("tiny-vit"), bert_config("tiny-resnet")
    weights = [config.build(seed=5).text_head.weight for config in (tiny, other)]
    assert torch.equal(*weights)


def test_two_forward_passes_are_bit_for_bit_the_same() -> None:
    model, image_BCHW, tokens = pair_batch(bert_config(), 4)
    model.eval()
    with torch.no_grad():
        for a, b in zip(model(image_BCHW, tokens), model(image_BCHW, tokens), strict=True):
            assert torch.equal(a, b)


def test_the_linear_head_starts_as_the_paper_says() -> None:
    head = clinical_clip("ViT-B-32", weights=None).text_head
    from clinical_clip.model.heads import build_head

    torch.manual_seed(0)
    built = build_head(head, 768)
    assert [name for name, _ in built.named_parameters()] == ["weight"]
    assert built.weight.std().item() == pytest.approx(768**-0.5, rel=0.01)
    assert abs(built.weight.mean().item()) < 1e-3


def test_the_mlp_head_is_two_matrices_around_a_relu() -> None:
    from clinical_clip.model.heads import build_head

    head = build_head(HeadConfig(kind="mlp", width=4, hidden=5), 3)
    x = torch.randn(2, 3)
    w1, w2 = head.first.weight, head.second.weight
    assert torch.allclose(head(x), torch.relu(x @ w1.T) @ w2.T)
    assert len(list(head.parameters())) == 2


def test_the_scale_starts_and_is_clamped_as_the_paper_says() -> None:
    model = clip_config().build()
    assert model.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    model.clamp_logit_scale()
    assert model.logit_scale.item() == pytest.approx(math.log(100))
    free = clip_config(logit_scale=LogitScaleConfig(max=None)).build()
    with torch.no_grad():
        free.logit_scale.fill_(9.0)
    free.clamp_logit_scale()
    assert free.logit_scale.item() == 9.0


def test_a_scale_that_goes_on_needs_weights() -> None:
    with pytest.raises(OptionError, match="goes on from weights"):
        clip_config(logit_scale=LogitScaleConfig(init=None)).build()


def test_sides_of_different_widths_are_refused() -> None:
    with pytest.raises(OptionError, match="images end in width 32, texts in 24"):
        bert_config(text_head=HeadConfig(kind="linear", width=24)).build()


def test_groups_hold_what_is_trained_once() -> None:
    model = bert_config("tiny-resnet", frozen_layers=2).build()
    groups = model.parameter_groups(lr=3e-5, weight_decay=0.1, lrs={"image": 3e-6})
    grouped = [id(p) for group in groups for p in group["params"]]
    trained = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trained)
    assert len(set(grouped)) == len(grouped)
    by_name = {group["name"]: group for group in groups}
    assert by_name["image"]["lr"] == 3e-6
    assert by_name["text"]["lr"] == 3e-5
    assert by_name["image"]["weight_decay"] == 0.1
    assert by_name["logit_scale-no-decay"]["weight_decay"] == 0
    assert all(p.ndim > 1 for p in by_name["text"]["params"])
    with pytest.raises(OptionError, match="no part is named"):
        model.parameter_groups(lr=1, lrs={"heads ": 1})


@pytest.mark.parametrize("one", ROWS, ids=lambda one: one.name)
def test_every_row_has_the_published_parameters(one: object) -> None:
    """On the meta device: shapes alone, no memory."""
    with torch.device("meta"):
        model = one.config(weights=None).build()
    assert count(model.image) == one.image_parameters
    assert count(model.text) == one.text_parameters
    assert count(model.image_head) + count(model.text_head) == one.head_parameters


def test_openais_models_have_their_published_sizes() -> None:
    """What OpenAI's four models count in all, with the scale."""
    published = {"RN50": 102_007_137, "RN101": 119_688_033, "RN50x4": 178_300_601, "ViT-B-32": 151_277_313}
    for architecture, expected in published.items():
        with torch.device("meta"):
            assert count(clip(architecture, weights=None).build()) == expected


def test_the_fifteen_rows_are_the_tables() -> None:
    names = [one.name for one in ROWS]
    assert len(names) == len(set(names)) == 15
    assert names[0] == "ImageNet"
    assert names[5:7] == ["ConVIRT (random init.)", "ConVIRT (ImageNet init.)"]
    assert names[-1] == "Clinical CLIP-ViT-B/32"
    assert [one.trained for one in ROWS] == [False] * 5 + [True] * 10
    with pytest.raises(OptionError, match="no row"):
        row("CLIP-RN52")


def test_rows_follow_the_method() -> None:
    ours = row("Clinical CLIP-RN50x4").config(weights=None)
    assert (ours.text.pooling, ours.text.max_tokens, ours.text.frozen_layers) == ("pooler", 256, 6)
    assert (ours.text_head.kind, ours.text_head.width, ours.text_head.bias) == ("linear", 640, False)
    assert ours.image.batchnorm == "frozen"
    theirs = row("ConVIRT (random init.)").config(weights=None)
    assert (theirs.text.pooling, theirs.logit_scale, theirs.retrieval) == ("max", None, "before_head")
    assert (theirs.image_head, theirs.image.batchnorm) == (HeadConfig(kind="mlp", width=512), "sync")
    tuned = row("CLIP-RN101 (ROCO)").config(weights=None)
    assert (tuned.text.pooling, tuned.text.max_tokens, tuned.text_head.kind) == ("eot", 77, "none")


def test_rows_with_a_weights_folder_name_its_files(tmp_path: Path) -> None:
    from clinical_clip.model.weights import OPENAI_SHA256

    config = clip("RN50", weights=tmp_path)
    assert config.image.weights == config.text.weights
    assert config.image.weights.path == str(tmp_path / "openai" / "RN50.pt")
    assert config.image.weights.sha256 == OPENAI_SHA256["RN50"]
    assert config.logit_scale.init is None
    assert clip("RN50", weights=tmp_path, check_digest=False).image.weights.sha256 is None
    assert clinical_clip("RN50", weights=tmp_path).logit_scale.init == pytest.approx(math.log(1 / 0.07))
    assert clinical_clip("RN50", weights=tmp_path).text.source == "emilyalsentzer/Bio_ClinicalBERT"
    (tmp_path / "Bio_ClinicalBERT").mkdir()
    assert clinical_clip("RN50", weights=tmp_path).text.source == str(tmp_path / "Bio_ClinicalBERT")
    assert convirt(weights=tmp_path, start="random").image.weights is None
    assert convirt(weights=tmp_path, start="imagenet").image.weights.format == "torchvision"
    with pytest.raises(OptionError, match="not one of OpenAI's models"):
        clip("RN52", weights=tmp_path)


@pytest.mark.parametrize("config", [one.config(weights=None) for one in ROWS] + [lite(pretrained=False)])
def test_configs_survive_json(config: DualEncoderConfig) -> None:
    import json

    assert DualEncoderConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_configs_of_another_version_are_refused() -> None:
    values = clip_config().to_json()
    values["image"]["flavour"] = 1
    with pytest.raises(OptionError, match=r"unknown settings \['flavour'\]"):
        DualEncoderConfig.from_json(values)


def test_lite_runs_and_trains_only_its_heads() -> None:
    model, image_BCHW, tokens = pair_batch(lite(), 2)
    image, text = model(image_BCHW, tokens)
    assert image.shape == text.shape == (2, 256)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == ["logit_scale", "image_head.weight", "text_head.weight"]


@pytest.mark.full
@pytest.mark.parametrize(
    "name", ["Clinical CLIP-RN50x4", "ConVIRT (ImageNet init.)", "Clinical CLIP-ViT-B/32"]
)
def test_full_size_from_files_takes_a_step(name: str, tmp_path: Path) -> None:
    from clinical_clip.loss.convirt import convirt as convirt_loss
    from clinical_clip.loss.infonce import info_nce
    from clinical_clip.model.checkpoint import load_model, save_model
    from clinical_clip.model.random_weights import write_random_weights
    from clinical_clip.model.self_test import known_answer

    one = row(name)
    first = "resnet50-imagenet" if one.image == "resnet50" else one.image
    write_random_weights(tmp_path, names=[first, "Bio_ClinicalBERT"])
    model, image_BCHW, tokens = pair_batch(one.config(weights=tmp_path, check_digest=False), 2)
    image, text = model(image_BCHW, tokens)
    loss = (
        convirt_loss(image, text) if model.logit_scale is None else info_nce(image, text, model.logit_scale)
    )
    loss.backward()
    torch.optim.Adam(model.parameter_groups(lr=3e-5)).step()
    model.clamp_logit_scale()
    save_model(model, tmp_path / "m")
    answer = known_answer(load_model(tmp_path / "m"))
    assert all(torch.equal(answer[part], value) for part, value in known_answer(model).items())


def test_a_tower_of_its_own_size_can_be_asked_for() -> None:
    base = clip_config()
    larger = replace(base, image=ImageTowerConfig(architecture="tiny-vit", image_size=64))
    assert larger.build().preprocess.size == 64
