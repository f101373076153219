"""One optimizer step: gradients of one batch or several, the check, the update, the clamp."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from clinical_clip.errors import TrainingError
from clinical_clip.loss.gather import average_gradients
from clinical_clip.loss.gradcache import gradcache_step
from clinical_clip.model.dual import DualEncoder
from clinical_clip.train.cache import TextCache
from clinical_clip.train.config import RunConfig
from clinical_clip.train.data import Batch
from clinical_clip.train.distributed import World
from clinical_clip.train.forward import Towers, autocast, encode, parallelise
from clinical_clip.train.objective import Objective
from clinical_clip.train.optim import gradient_norm, set_learning_rate

__all__ = ["StepResult", "Stepper"]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one optimizer step gave, over its batches and all ranks.

    Attributes:
        loss: mean; gradient_norm: before clipping; lr: of the first group.
        truncated: captions that were cut; rejected: images that could not be read.
    """

    loss: float
    gradient_norm: float
    lr: float
    truncated: int
    rejected: int


class Stepper:
    """Model, objective and optimizer, and how a step goes under the run's settings.

    Attributes:
        towers: what encodes, as the processes share it.
    """

    def __init__(self, config: RunConfig, model: DualEncoder, world: World) -> None:
        self._config, self._model, self._world = config, model, world
        sharded = world.size > 1 and config.parallel == "fsdp2"  # which wants rows as they lie
        self.plain = Towers(model, channels_last=_is_convolutional(model) and not sharded)
        # GradCache averages over ranks itself, once the chunks are through: no wrapper may do it before.
        alone = replace(world, size=1) if config.gradcache_chunk else world
        self.towers = parallelise(self.plain, alone, kind=config.parallel, compiled=config.compile)
        self.objective: Objective = config.loss.build(model)
        self.optimizer: Optimizer = config.optim.build(model)
        self.cache: TextCache | None = None
        self._learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        scalars = (model.logit_scale, model.logit_bias)
        self._outside = [p for p in scalars if p is not None and p.requires_grad]

    def __call__(self, batches: Sequence[Batch], *, lr_factor: float, step: int) -> StepResult:
        """Update once with the mean gradient over ``batches``.

        Raises:
            TrainingError: the loss or a gradient is not finite; the weights are as they were.
        """
        lr = set_learning_rate(self.optimizer, lr_factor)
        self.optimizer.zero_grad(set_to_none=True)
        losses = [
            self._backward(batch, last=number == len(batches) - 1) for number, batch in enumerate(batches)
        ]
        if self._config.gradcache_chunk is not None:
            average_gradients(self._learning)
        elif self._config.parallel == "fsdp2":
            average_gradients(self._outside)
        norm = float(gradient_norm(self._learning))
        cut, rejected = (sum(counts) for counts in zip(*map(_counts, batches), strict=True))
        mean = float(torch.stack(losses).mean()) / self._world.size
        loss, cut, rejected = self._world.sum(
            torch.tensor([mean, cut, rejected], dtype=torch.float64)
        ).tolist()
        self._check(loss, norm, step)
        self._clip(norm)
        self.optimizer.step()
        self._model.clamp_logit_scale()
        return StepResult(loss=loss, gradient_norm=norm, lr=lr, truncated=int(cut), rejected=int(rejected))

    def _backward(self, batch: Batch, *, last: bool) -> Tensor:
        """Add the gradient of one batch, divided by how many there are; returns this rank's loss."""
        batch = batch.to(self._world.device)
        cached = self.cache.rows(batch) if self.cache else None
        if self._config.gradcache_chunk is not None:
            return self._backward_in_chunks(batch, self._config.gradcache_chunk)
        with self._without_sync(not last):
            features = encode(
                self.towers, batch.image_BHWC, batch.tokens, cached, precision=self._config.precision
            )
            loss = self.objective.of_global_batch(features[0], features[1], batch.text_key_B)
            (loss / self._config.accumulate).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _backward_in_chunks(self, batch: Batch, chunk: int) -> Tensor:
        def loss_of(image_BD: Tensor, text_BD: Tensor) -> Tensor:
            return self.objective.of_global_batch(image_BD, text_BD, batch.text_key_B)

        return gradcache_step(
            self.towers,
            batch.image_BHWC,
            batch.tokens,
            loss_of,
            chunk,
            loss_weight=1 / self._config.accumulate,
            context=lambda: autocast(self._world.device, self._config.precision),
        )

    def _without_sync(self, wanted: bool) -> AbstractContextManager[object]:
        if wanted and isinstance(self.towers, DistributedDataParallel):
            return self.towers.no_sync()
        return nullcontext()

    def _check(self, loss: float, norm: float, step: int) -> None:
        if torch.isfinite(torch.tensor([loss, norm])).all():
            return
        self.optimizer.zero_grad(set_to_none=True)
        what = "the loss" if not torch.isfinite(torch.tensor(loss)) else "a gradient"
        raise TrainingError(
            f"{what} is not finite in step {step + 1}; the weights are those before it",
            where=f"recipe {self._config.name}",
            hint="run again in fp32 or with a lower learning rate; the last checkpoint is whole",
        )

    def _clip(self, norm: float) -> None:
        limit = self._config.optim.max_gradient_norm
        if limit is not None and norm > limit:
            for parameter in self._learning:
                if parameter.grad is not None:
                    parameter.grad.mul_(limit / norm)


def _is_convolutional(model: DualEncoder) -> bool:
    return not hasattr(model.image.body, "transformer")


def _counts(batch: Batch) -> tuple[int, int]:
    return batch.tokens.truncated, batch.rejected
