"""The loop: epochs of steps, validation, checkpoints, logs; it resumes where a checkpoint left it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Literal

import numpy as np

from clinical_clip.data.pairs import PairSet
from clinical_clip.errors import TrainingError
from clinical_clip.train.cache import open_text_cache
from clinical_clip.train.checkpoint import CheckpointStore, Facts
from clinical_clip.train.config import RunConfig
from clinical_clip.train.data import Batch, PairDataset, PairLoader
from clinical_clip.train.distributed import World
from clinical_clip.train.forward import text_tower
from clinical_clip.train.log import ProgressBar, RunLog
from clinical_clip.train.memory import keep_freed_memory
from clinical_clip.train.optim import learning_rate_factor
from clinical_clip.train.preempt import StopFlag, stop_on_signals
from clinical_clip.train.sampler import BatchSampler, Position
from clinical_clip.train.state import collect_state, collect_weights, restore_state, seed_everything
from clinical_clip.train.step import Stepper, StepResult
from clinical_clip.train.validate import Validation

__all__ = ["Counts", "TrainResult", "Trainer"]

_STOP_CHECK_STEPS = 10  # between asking all ranks whether one was told to stop


@dataclass(kw_only=True)
class Counts:
    """What a run has seen, over all ranks, since its first start."""

    pairs: int = 0
    truncated: int = 0
    rejected: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a run ended: ``done``, or ``stopped`` by a signal with a checkpoint written.

    Attributes:
        steps: optimizer steps since the run's first start; epochs: whole epochs.
        validation: of the best checkpoint; empty before the first validation.
        pairs_per_s: of this process's part of the run, validation and checkpoints included.
    """

    status: Literal["done", "stopped"]
    out: Path
    steps: int
    epochs: int
    validation: dict[str, float]
    counts: Counts
    pairs_per_s: float


class Trainer:
    """One run. ``run`` may be called once."""

    def __init__(
        self, config: RunConfig, *, data: PairSet, validation: PairSet, out: Path, world: World
    ) -> None:
        self.config, self.out, self.world = config, out, world
        if world.device.type == "cpu":
            keep_freed_memory()
        self.model = config.model.build(seed=config.seed).to(world.device).train()
        self._stepper = Stepper(config, self.model, world)
        self._sharded = config.parallel == "fsdp2" and world.size > 1
        self._data_digest = f"{data.digest}|{validation.digest}"
        preprocessing = self.model.preprocess
        self._dataset = PairDataset(data, config=config.data, preprocessing=preprocessing, seed=config.seed)
        unchanged = replace(config.data, augmentation="none")
        self._held_out = PairDataset(
            validation, config=unchanged, preprocessing=preprocessing, seed=config.seed
        )
        self._sampler = BatchSampler(
            length=len(self._dataset),
            batch_size=config.data.batch_size,
            seed=config.seed,
            rank=world.rank,
            world=world.size,
        )
        tokens = text_tower(self.model).tokens
        self._loader = PairLoader(
            self._dataset,
            self._sampler,
            tokens=tokens,
            workers=config.data.workers,
            pin_memory=world.device.type == "cuda",
        )
        self._validation = Validation(self._held_out, config, world, tokens)
        self._store = CheckpointStore(out / "checkpoints", keep=config.keep)
        self._position, self._step, self.counts = Position(), 0, Counts()

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of a whole epoch."""
        return self._sampler.batches // self.config.accumulate

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        steps = self.config.epochs * self.steps_per_epoch
        return steps if self.config.max_steps is None else min(steps, self.config.max_steps)

    def run(self, *, resume: bool = True) -> TrainResult:
        """Train to the end, or until a signal; the best checkpoint's facts are in the result.

        Raises:
            TrainingError: a non-finite loss; a folder of another run; too many unreadable images.
            StoreError: the disk is full.
        """
        started = monotonic()
        seed_everything(self.config.seed, self.world)
        if resume:
            self._resume()
        elif self.world.leads and any(self._store.folder.glob("step-*")):
            raise TrainingError(
                "there is a run already", where=str(self.out), hint="resume it, or choose another folder"
            )
        self._open_caches()
        pairs_before, seconds_before = self.counts.pairs, self.counts.seconds
        log = (
            RunLog(self.out, step=self._step, validation_columns=self._validation.columns)
            if self.world.leads
            else None
        )
        bar = ProgressBar(
            total_steps=self.total_steps, step=self._step, shown=self.world.leads and sys.stderr.isatty()
        )
        try:
            with stop_on_signals() as stop, bar:
                status = self._epochs(log, bar, stop, started - seconds_before)
        finally:
            if log is not None:
                log.close()
        elapsed_s = monotonic() - started
        best = self._store.best()
        return TrainResult(
            status=status,
            out=self.out,
            steps=self._step,
            epochs=self._position.epoch,
            validation=dict(best[1].validation) if best else {},
            counts=self.counts,
            pairs_per_s=(self.counts.pairs - pairs_before) / elapsed_s,
        )

    def _epochs(
        self, log: RunLog | None, bar: ProgressBar, stop: StopFlag, since: float
    ) -> Literal["done", "stopped"]:
        if self.total_steps == 0 and self._store.best() is None:
            self._validate(log)
        while self._step < self.total_steps:
            for batches in self._steps_of_epoch():
                self._one_step(batches, log, bar)
                self.counts.seconds = monotonic() - since
                ends = self._step == self.total_steps or self._position.batch == 0
                stopped = self._told_to_stop(stop)
                if ends:
                    self._validate(log)
                elif stopped or self._step % self.config.checkpoint_steps == 0:
                    self._save({})
                if stopped and self._step < self.total_steps:
                    return "stopped"
                if ends:
                    break
        return "done"

    def _steps_of_epoch(self) -> Iterator[list[Batch]]:
        """Groups of ``accumulate`` batches from the run's position to the end of the epoch."""
        self._sampler.start_at(self._position)
        group: list[Batch] = []
        for batch in self._loader:
            group.append(batch)
            if len(group) == self.config.accumulate:
                yield group
                group = []

    def _one_step(self, batches: list[Batch], log: RunLog | None, bar: ProgressBar) -> None:
        start = monotonic()
        epoch = self._position.epoch
        factor = learning_rate_factor(self.config.optim, self._step, self.total_steps)
        result = self._stepper(batches, lr_factor=factor, step=self._step)
        self._step += 1
        self._advance(len(batches))
        self._count(len(batches), result)
        pairs_per_s = len(batches) * self.config.data.batch_size / max(monotonic() - start, 1e-9)
        if log is not None:
            scale = self.model.logit_scale
            log.step(
                {
                    "step": self._step,
                    "epoch": epoch,
                    "loss": result.loss,
                    "lr": result.lr,
                    "logit_scale": math.exp(scale.item()) if scale is not None else None,
                    "gradient_norm": result.gradient_norm,
                    "pairs_per_s": pairs_per_s,
                    "truncated": result.truncated,
                }
            )
        bar.update(step=self._step, epoch=epoch, loss=result.loss, pairs_per_s=pairs_per_s)

    def _advance(self, batches: int) -> None:
        done = self._position.batch + batches
        ends = done + self.config.accumulate > self._sampler.batches
        self._position = (
            Position(epoch=self._position.epoch + 1)
            if ends
            else Position(epoch=self._position.epoch, batch=done)
        )

    def _count(self, batches: int, result: StepResult) -> None:
        self.counts.pairs += batches * self.config.data.batch_size
        self.counts.truncated += result.truncated
        self.counts.rejected += result.rejected
        allowed = self.config.max_rejected_share * max(self.counts.pairs, len(self._dataset))
        if self.counts.rejected > allowed:
            raise TrainingError(
                f"{self.counts.rejected} images could not be read",
                where="training pairs",
                hint="see `clinical-clip data check`, or raise max_rejected_share",
            )

    def _told_to_stop(self, stop: StopFlag) -> bool:
        if self.world.size == 1:
            return stop.raised
        return self._step % _STOP_CHECK_STEPS == 0 and self.world.any(stop.raised)

    def _validate(self, log: RunLog | None) -> None:
        """Measure on the validation pairs and write a checkpoint that says what was found.

        Raises:
            TrainingError: the validation loss is not finite.
        """
        found = self._validation.measure(self._stepper.towers, self._stepper.objective)
        if not math.isfinite(found["loss"]):
            raise TrainingError(
                f"the validation loss is not finite after step {self._step}",
                where=f"recipe {self.config.name}",
                hint="run again in fp32 or with a lower learning rate",
            )
        if log is not None:  # first: a kill in between drops the row, since its step is past the checkpoint
            log.validation({"step": self._step, "epoch": self._position.epoch, **found})
        self._save(found)

    def _save(self, validation: dict[str, float]) -> None:
        weights = collect_weights(self._stepper, self.model, sharded=self._sharded)
        state = collect_state(self._stepper, self.world, sharded=self._sharded)
        if self.world.leads:
            facts = Facts(
                step=self._step,
                epoch=self._position.epoch,
                batch=self._position.batch,
                identity=self.config.identity,
                data_digest=self._data_digest,
                validation=validation,
                counts=asdict(self.counts),
            )
            self._store.save(facts, weights, state)
        self.world.barrier()

    def _resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one.

        Raises:
            TrainingError: it is of another recipe or of other pairs, or all are damaged.
        """
        found = self._store.latest()
        if found is None:
            return
        facts = found.facts
        if (facts.identity, facts.data_digest) != (self.config.identity, self._data_digest):
            raise TrainingError(
                "the folder holds a run of another recipe, seed or data",
                where=str(self.out),
                hint="give the same recipe and data, or another folder",
            )
        restore_state(
            self._stepper, self.model, found.weights, found.state, self.world, sharded=self._sharded
        )
        if self.world.leads:
            self._store.prune()
        self._step, self._position = facts.step, Position(epoch=facts.epoch, batch=facts.batch)
        self.counts = Counts(**facts.counts)  # type: ignore[arg-type]

    def _open_caches(self) -> None:
        if not self.config.text_cache:
            return
        dtype = np.float16 if self.config.precision == "bf16" else np.float32
        for dataset, owner in ((self._dataset, self._stepper), (self._held_out, self._validation)):
            captions = [pair.caption for pair in dataset.pairs]
            if self.world.leads:
                open_text_cache(text_tower(self.model), captions, self.out / "cache", dtype=dtype)
            self.world.barrier()
            owner.cache = open_text_cache(text_tower(self.model), captions, self.out / "cache", dtype=dtype)
