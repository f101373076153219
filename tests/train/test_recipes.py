from __future__ import annotations

import json
from pathlib import Path

import pytest

from clinical_clip.errors import OptionError
from clinical_clip.model.methods import ROWS
from clinical_clip.train.config import DataConfig, OptimConfig, with_changes
from clinical_clip.train.recipes import Weights, paper_recipes, recipe, recipes
from clinical_clip.train.recipes.paper import row_recipe

GOLDEN = Path(__file__).parent / "golden" / "recipes.json"


def test_recipes_are_frozen() -> None:
    """A changed digest is a changed experiment: update the golden file only on purpose."""
    assert {name: make(Weights()).digest for name, make in recipes().items()} == json.loads(
        GOLDEN.read_text()
    )


def test_digest_follows_every_field_but_folders() -> None:
    one = recipe("clinical-clip-rn50")
    assert one.digest == recipe("clinical-clip-rn50", Weights(folder=Path("/elsewhere"))).digest
    assert one.digest != with_changes(one, seed=1).digest
    assert one.digest != with_changes(one, optim__lr=1e-5).digest


def test_identity_ignores_what_may_change_when_a_run_goes_on() -> None:
    one = recipe("convirt-random")
    assert one.identity == with_changes(one, epochs=1, max_steps=3, data__workers=0).identity
    assert one.identity != with_changes(one, data__batch_size=16).identity
    cosine = with_changes(one, optim__schedule="cosine")
    assert cosine.identity != with_changes(cosine, epochs=1).identity
    assert cosine.identity != with_changes(cosine, max_steps=3).identity


def test_what_the_method_states_of_all_rows() -> None:
    assert len(paper_recipes()) == 15
    for row in ROWS:
        config = row_recipe(row, Weights())
        assert config.epochs == (100 if row.trained else 0)
        assert config.optim.lr == (3e-6 if row.method == "clip" else 3e-5)
        assert config.data.batch_size == 32
        assert config.seed == 42
        assert config.precision == "bf16"
        assert (config.optim.kind, config.optim.betas, config.optim.eps) == ("adam", (0.9, 0.999), 1e-8)
        assert (config.optim.weight_decay, config.optim.schedule) == (0.0, "constant")
        assert not config.loss.mask_same_text


@pytest.mark.parametrize("architecture", ["rn50", "rn101", "rn50x4", "vit-b-32"])
def test_clip_families(architecture: str) -> None:
    fine_tuned, clinical = recipe(f"clip-roco-{architecture}"), recipe(f"clinical-clip-{architecture}")
    for config in (fine_tuned, clinical):
        assert config.data == DataConfig(augmentation="none", caption="whole")
        assert config.model.image.batchnorm == "frozen"
        assert config.loss.kind == "info_nce"
        assert config.model.retrieval == "after_head"
    assert fine_tuned.model.text is not None
    assert (fine_tuned.model.text.kind, fine_tuned.model.text.max_tokens) == ("clip", 77)
    assert fine_tuned.model.logit_scale is not None
    assert fine_tuned.model.logit_scale.init is None
    text = clinical.model.text
    assert text is not None
    assert (text.kind, text.pooling, text.max_tokens, text.frozen_layers) == ("bert", "pooler", 256, 6)
    assert clinical.model.logit_scale is not None
    assert clinical.model.logit_scale.init == pytest.approx(2.6592600)
    assert (clinical.model.text_head.kind, clinical.model.text_head.bias) == ("linear", False)


@pytest.mark.parametrize("start", ["random", "imagenet"])
def test_convirt(start: str) -> None:
    config = recipe(f"convirt-{start}")
    assert config.data == DataConfig(augmentation="convirt", caption="sentence")
    assert (config.loss.kind, config.loss.temperature, config.loss.image_weight) == ("convirt", 0.1, 0.75)
    assert config.model.image.batchnorm == "sync"
    assert (config.model.image.weights is None) == (start == "random")
    assert (config.model.image_head.kind, config.model.image_head.width) == ("mlp", 512)
    assert config.model.retrieval == "before_head"


def test_an_unknown_recipe_is_named() -> None:
    with pytest.raises(OptionError, match="no recipe 'clinical'"):
        recipe("clinical")


@pytest.mark.parametrize(
    "change",
    [
        {"data__batch_size": 1},
        {"accumulate": 0},
        {"optim": OptimConfig(lr=0.0)},
        {"gradcache_chunk": 4, "parallel": "fsdp2"},
        {"text_cache": True, "data": DataConfig(caption="sentence")},
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        with_changes(recipe("clip-roco-rn50"), **change)


def test_gradcache_refuses_batch_statistics() -> None:
    with pytest.raises(OptionError, match="BatchNorm"):
        with_changes(recipe("convirt-random"), gradcache_chunk=4)
