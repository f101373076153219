"""What stops a run, and what it leaves behind."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clinical_clip.data.pairs import PairSet
from clinical_clip.errors import TrainingError
from clinical_clip.train.config import with_changes
from clinical_clip.train.loop import train
from clinical_clip.train.recipes import recipe
from clinical_clip.train.step import Stepper, StepResult
from tests.train.conftest import Runs


def test_a_non_finite_loss_stops_before_the_update(runs: Runs) -> None:
    trainer = runs.trainer(recipe("smoke-clip-vit"))
    with torch.no_grad():
        trainer.model.image.body.proj[0, 0] = torch.nan
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    with pytest.raises(TrainingError, match="the loss is not finite in step 1"):
        trainer.run()
    for name, tensor in trainer.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)


def test_a_non_finite_gradient_stops_before_the_update(runs: Runs) -> None:
    trainer = runs.trainer(recipe("smoke-clip-vit"))
    weight = trainer.model.image.body.proj
    weight.register_hook(lambda gradient: gradient * torch.inf)
    before = weight.detach().clone()
    with pytest.raises(TrainingError, match="a gradient is not finite"):
        trainer.run()
    assert torch.equal(weight, before)


def test_the_scale_is_clamped_after_every_step(runs: Runs) -> None:
    trainer = runs.trainer(with_changes(recipe("smoke-clip-vit"), max_steps=1))
    with torch.no_grad():
        trainer.model.logit_scale.fill_(9.0)
    trainer.run()
    assert trainer.model.logit_scale.exp().item() == pytest.approx(100.0, rel=1e-6)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_writes_a_checkpoint_and_the_run_goes_on(
    number: signal.Signals, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_changes(recipe("smoke-clip-vit"), checkpoint_steps=1000)
    whole = runs.losses(config, "whole")
    step = Stepper.__call__

    def signalled(self: Stepper, *args: object, **more: object) -> StepResult:
        if more["step"] == 5:
            os.kill(os.getpid(), number)
        return step(self, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", signalled)
        result = runs.trainer(config).run()
    assert (result.status, result.steps) == ("stopped", 6)
    assert runs.trainer(config).run().status == "done"
    assert runs.read() == whole


def test_a_folder_of_another_run_is_refused(runs: Runs) -> None:
    config = with_changes(recipe("smoke-clip-vit"), max_steps=1)
    runs.losses(config)
    with pytest.raises(TrainingError, match="another recipe, seed or data"):
        runs.trainer(with_changes(config, seed=1)).run()
    with pytest.raises(TrainingError, match="there is a run already"):
        runs.trainer(config).run(resume=False)


def _with_broken(made: PairSet, folder: Path, count: int) -> PairSet:
    broken = folder / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n not a picture")
    pairs = [replace(pair, image=broken) if n < count else pair for n, pair in enumerate(made)]
    return PairSet(name="some broken", pairs=tuple(pairs))


def test_unreadable_images_give_way_and_are_counted(made: PairSet, runs: Runs, tmp_path: Path) -> None:
    config = with_changes(recipe("smoke-clip-vit"), max_rejected_share=0.5)
    runs.made = _with_broken(made, tmp_path, 2)
    result = runs.trainer(config).run()
    assert result.status == "done"
    assert 0 < result.counts.rejected <= 6


def test_too_many_unreadable_images_stop_the_run(made: PairSet, runs: Runs, tmp_path: Path) -> None:
    runs.made = _with_broken(made, tmp_path, 12)
    with pytest.raises(TrainingError, match="could not be read"):
        runs.trainer(recipe("smoke-clip-vit")).run()


def test_too_few_pairs(made: PairSet, tmp_path: Path) -> None:
    few = PairSet(name="few", pairs=made.pairs[:3])
    with pytest.raises(TrainingError, match="fewer than one batch"):
        train(recipe("smoke-clip-vit"), data=few, validation=made, out=tmp_path, device="cpu")
