"""Ways to compute the same: chunks, accumulation, caches, workers."""

from __future__ import annotations

import pytest
import torch

from clinical_clip.train.config import RunConfig, with_changes
from clinical_clip.train.data import PairDataset, PairLoader
from clinical_clip.train.distributed import World
from clinical_clip.train.recipes import recipe
from clinical_clip.train.sampler import BatchSampler
from clinical_clip.train.step import Stepper
from tests.train.conftest import Runs


@pytest.mark.parametrize("name", ["smoke-clip-rn", "smoke-clip-vit"])
def test_gradcache_is_the_full_batch(name: str, runs: Runs) -> None:
    """Whole runs: each loss after the first also depends on every gradient before it."""
    full = runs.losses(recipe(name), "full")
    for chunk in (3, 8):
        chunked = runs.losses(with_changes(recipe(name), gradcache_chunk=chunk), f"chunk-{chunk}")
        assert chunked == pytest.approx(full, rel=2e-4)


def _batches(config: RunConfig, runs: Runs, model: object, count: int) -> list[object]:
    dataset = PairDataset(runs.made, config=config.data, preprocessing=model.preprocess, seed=config.seed)
    sampler = BatchSampler(length=len(dataset), batch_size=config.data.batch_size, seed=config.seed)
    loader = PairLoader(dataset, sampler, tokens=model.text.tokens, workers=0)
    return [batch for batch, _ in zip(loader, range(count), strict=False)]


@pytest.mark.parametrize("chunk", [None, 4])
def test_accumulation_is_the_mean_gradient_of_its_batches(
    chunk: int | None, runs: Runs, world: World
) -> None:
    """Each batch is contrasted within itself; the update takes the mean of their gradients."""
    config = with_changes(recipe("smoke-clip-vit"), accumulate=3, gradcache_chunk=chunk)
    model = config.model.build(seed=1).train()
    stepper = Stepper(config, model, world)
    batches = _batches(config, runs, model, 3)
    expected: dict[str, torch.Tensor] = {}
    for batch in batches:
        model.zero_grad()
        image = model.encode_image(model.preprocess.normalise(batch.image_BHWC))
        stepper.objective.of_batch(image, model.encode_text(batch.tokens), batch.text_key_B).backward()
        for name, parameter in model.named_parameters():
            expected[name] = expected.get(name, 0) + parameter.grad / 3
    stepper.optimizer.step = lambda: None
    stepper(batches, lr_factor=1.0, step=0)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_a_cache_in_front_of_the_trained_layers(runs: Runs) -> None:
    """Same random numbers in both: the frozen layers draw none."""
    plain = recipe("smoke-clinical-clip-vit")
    cached = runs.losses(with_changes(plain, text_cache=True), "cached")
    assert cached == pytest.approx(runs.losses(plain, "plain"), rel=1e-5)
    assert list((runs.folder / "cached" / "cache").glob("text-*.npy"))


def test_a_cache_behind_a_frozen_tower(runs: Runs) -> None:
    plain = with_changes(recipe("smoke-clinical-clip-vit"), model=_all_text_frozen())
    cached = runs.losses(with_changes(plain, text_cache=True), "cached")
    assert cached == pytest.approx(runs.losses(plain, "plain"), rel=1e-5)


def _all_text_frozen() -> object:
    from dataclasses import replace

    model = recipe("smoke-clinical-clip-vit").model
    return replace(model, text=replace(model.text, pooling="mean", frozen_layers=3))


def test_a_cache_is_reused_only_for_the_same_weights_and_captions(runs: Runs) -> None:
    config = with_changes(recipe("smoke-clinical-clip-vit"), text_cache=True, max_steps=1)
    folder = runs.folder / "run" / "cache"
    runs.losses(config)
    first = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    runs.losses(with_changes(config, max_steps=2))
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == first
    other = runs.trainer(with_changes(config, seed=7), "other")
    other.run()
    assert not set(first) & {path.name for path in (runs.folder / "other" / "cache").iterdir()}


def test_workers_change_nothing(runs: Runs) -> None:
    config = with_changes(recipe("smoke-convirt"), max_steps=5)
    alone = runs.losses(config, "alone")
    assert runs.losses(with_changes(config, data__workers=2), "workers") == alone


def test_bfloat16_trains_float32_weights(runs: Runs) -> None:
    config = with_changes(recipe("smoke-clip-vit"), precision="bf16")
    trainer = runs.trainer(config)
    trainer.run()
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert runs.read() == pytest.approx(runs.losses(recipe("smoke-clip-vit"), "fp32"), rel=0.05)
    assert runs.read() != runs.read("fp32")
