"""A known answer beside a checkpoint: made pictures and texts, and what the model said of them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clinical_clip.errors import WeightsError
from clinical_clip.model.dual import DualEncoder

__all__ = ["KNOWN_TEXTS", "check_answer", "known_answer", "known_images"]

KNOWN_TEXTS = (
    "Chest X-ray: right lower lobe consolidation with a small pleural effusion.",
    "Axial CT of the abdomen, portal venous phase; hypodense lesion in segment VII (arrow).",
)


def known_images(size: int) -> NDArray[np.uint8]:
    """Two made pictures, the same on every machine: uint8 (2, size, size, 3).

    >>> int(known_images(8).sum())
    39999
    """
    y, x = np.mgrid[0:size, 0:size].astype(np.float64) / size
    disc = (x - 0.4) ** 2 + (y - 0.5) ** 2 < 0.08
    stripes = np.sin(40 * x * y) > 0
    first = np.stack([x, y, 1 - x], axis=-1) * 0.6 + disc[..., None] * 0.4
    second = np.repeat((stripes * 0.7 + 0.3 * y)[..., None], 3, axis=2)
    return (np.stack([first, second]) * 255).astype(np.uint8)


@torch.no_grad()
def known_answer(model: DualEncoder) -> dict[str, Tensor]:
    """Unit features of the known pictures (``retrieval``, ``image``) and texts (``text``), float32, on CPU.

    The model's mode is put back afterwards.
    """
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    try:
        pixels_BHWC = torch.from_numpy(known_images(model.preprocess.size)).to(device)
        image_BCHW = model.preprocess.normalise(pixels_BHWC)
        answer = {
            "retrieval": model.retrieval_features(image_BCHW),
            "image": model.image_features(image_BCHW),
        }
        if model.text is not None:
            answer["text"] = model.text_features(model.tokenize(KNOWN_TEXTS).to(device))
    finally:
        model.train(was_training)
    return {name: value.cpu().contiguous() for name, value in answer.items()}


def check_answer(
    model: DualEncoder, expected: dict[str, Tensor], *, where: str, cosine: float = 0.9999
) -> None:
    """Compare what the model says now with what it said when it was saved.

    Raises:
        WeightsError: a feature's cosine to the known one is below ``cosine``.
    """
    found = known_answer(model)
    if found.keys() != expected.keys():
        raise WeightsError(
            "the known answer is of another kind of model", where=where, hint="save the model again"
        )
    for name, known_BD in expected.items():
        if found[name].shape != known_BD.shape:
            raise WeightsError(
                f"{name} features have another width", where=where, hint="save the model again"
            )
        nearest = float((found[name].double() * known_BD.double()).sum(dim=1).min())
        if not nearest >= cosine:
            raise WeightsError(
                f"the self-test failed: {name} features have a cosine of {nearest:.5f} to the known ones",
                where=where,
                hint="the files or an installed library changed; get the model again, or train it again",
            )
