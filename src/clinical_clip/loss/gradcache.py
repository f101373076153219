"""GradCache (Gao et al. 2021): the gradient of a large contrastive batch in the memory of a small one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from clinical_clip.errors import OptionError
from clinical_clip.model.batchnorm import uses_batch_statistics
from clinical_clip.model.tokens import TokenBatch

__all__ = ["LossFunction", "gradcache_step"]


class LossFunction(Protocol):
    """(B, D) images and (B, D) texts → scalar."""

    def __call__(self, image_BD: Tensor, text_BD: Tensor, /) -> Tensor: ...


def gradcache_step(
    model: nn.Module,
    image_BCHW: Tensor,
    tokens: TokenBatch,
    loss_function: LossFunction,
    chunk_size: int,
    *,
    loss_weight: float = 1.0,
    context: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Tensor:
    """Accumulate into ``.grad`` what ``loss_function`` of the whole batch asks for, chunk by chunk.

    1. Encode every chunk without a graph, remembering the random state before each.
    2. The loss over all features; its gradient with respect to them (and to what ``loss_function``
       closes over, such as the logit scale) is exact.
    3. Encode every chunk again with a graph, under its remembered random state so that dropout draws the
       same, and send the features' gradients back.

    The result is the whole batch's gradient up to rounding. A data-parallel wrapper must not reduce in
    between: run this under its ``no_sync`` and average afterwards (:func:`.gather.average_gradients`).

    Args:
        model: ``model(image_BCHW, tokens)`` gives (B, D) images and (B, D) texts.
        image_BCHW: float (B, 3, H, W).
        tokens: B texts.
        loss_function: of the whole batch; it may gather across ranks.
        chunk_size: pairs encoded at once.
        loss_weight: factor on the loss's gradient (for accumulation).
        context: makes the context of each forward pass (autocast).

    Returns:
        The loss, detached, without ``loss_weight``. Where it is not finite no gradient has been touched.

    Raises:
        OptionError: a BatchNorm layer is using the batch's statistics, which chunks would change.
    """
    if chunk_size < 1:
        raise OptionError(f"chunks of {chunk_size} pairs", where="chunk size", hint="ask for at least 1")
    if uses_batch_statistics(model):
        raise OptionError(
            "GradCache with a BatchNorm that uses the batch's statistics: every chunk would see others",
            where="batchnorm",
            hint="freeze the running statistics (batchnorm='frozen'), or train without GradCache",
        )
    chunks = [slice(start, start + chunk_size) for start in range(0, len(tokens), chunk_size)]
    states, images, texts = [], [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(_random_state(image_BCHW.device))
            with context():
                image_bD, text_bD = model(image_BCHW[chunk], tokens[chunk])
            images.append(image_bD)
            texts.append(text_bD)
    image_BD = torch.cat(images).detach().requires_grad_()
    text_BD = torch.cat(texts).detach().requires_grad_()
    with context():
        loss = loss_function(image_BD, text_BD)
    if not bool(torch.isfinite(loss.detach())):
        return loss.detach()
    (loss * loss_weight).backward()  # type: ignore[no-untyped-call]
    if image_BD.grad is None or text_BD.grad is None:
        raise OptionError("the loss does not depend on both sides", where="loss", hint="use another loss")
    for chunk, state in zip(chunks, states, strict=True):
        with _replayed(state, image_BCHW.device):
            with context():
                image_bD, text_bD = model(image_BCHW[chunk], tokens[chunk])
            _send_back([image_bD, text_bD], [image_BD.grad[chunk], text_BD.grad[chunk]])
    return loss.detach()


def _send_back(features: list[Tensor], gradients: list[Tensor]) -> None:
    trained = [(f, g) for f, g in zip(features, gradients, strict=True) if f.requires_grad]
    if trained:
        torch.autograd.backward([f for f, _ in trained], [g.to(f.dtype) for f, g in trained])


_RandomState = tuple[Tensor, Tensor | None]


def _random_state(device: torch.device) -> _RandomState:
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_device


@contextmanager
def _replayed(state: _RandomState, device: torch.device) -> Iterator[None]:
    """Inside, the random state of then; afterwards the present one again."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state(state[1], device)
        yield
