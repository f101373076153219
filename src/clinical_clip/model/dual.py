"""The dual encoder: images and texts to vectors of one space.

Shapes: B rows, D the shared width, R the width of the retrieval feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clinical_clip.errors import OptionError, TextUnsupported
from clinical_clip.model.config import DualEncoderConfig
from clinical_clip.model.heads import build_head
from clinical_clip.model.logit_scale import clamp_, new_logit_bias, new_logit_scale
from clinical_clip.model.preprocess import ImagePreprocessing
from clinical_clip.model.text_towers import TextTower
from clinical_clip.model.tokens import TokenBatch
from clinical_clip.model.weights import archive_logit_scale

__all__ = ["DualEncoder", "build_dual_encoder"]


class DualEncoder(nn.Module):
    """An image tower and a text tower with their heads.

    Attributes:
        config: what it was built from.
        image, text: the towers; image_head, text_head: their heads. ``text`` may be None.
        logit_scale: ln of the scale, a scalar parameter; None where the temperature is fixed.
        logit_bias: SigLIP's bias; None elsewhere.
        width: D, of ``encode_image`` and ``encode_text``.
        retrieval_width: R, of ``retrieval_features``.
    """

    def __init__(self, config: DualEncoderConfig, *, seed: int = 42) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.image = config.image.build()
            torch.manual_seed(seed + 1)
            self.text = config.text.build() if config.text is not None else None
            torch.manual_seed(seed + 2)
            self.image_head = build_head(config.image_head, self.image.width)
            torch.manual_seed(seed + 3)
            self.text_head = build_head(config.text_head, self.text.width if self.text is not None else 0)
        self.width = config.image_head.width or self.image.width
        text_width = config.text_head.width or (self.text.width if self.text is not None else self.width)
        if text_width != self.width:
            raise OptionError(
                f"images end in width {self.width}, texts in {text_width}",
                where="heads",
                hint="give the text side a linear head of the image side's width",
            )
        inner = config.retrieval == "before_head"
        self.retrieval_width = self.image.inner_width if inner else self.width
        self._scales(config)

    def _scales(self, config: DualEncoderConfig) -> None:
        self.logit_scale: nn.Parameter | None = None
        self.logit_bias: nn.Parameter | None = None
        if config.logit_scale is not None:
            kept = archive_logit_scale(config.image.weights) if config.logit_scale.init is None else None
            self.logit_scale = new_logit_scale(config.logit_scale, kept)
            self.logit_bias = new_logit_bias(config.logit_scale)

    def _text_tower(self) -> TextTower:
        if self.text is None:
            raise TextUnsupported(
                "this model has no text tower", where=self.config.image.architecture, hint="query by image"
            )
        return self.text

    @property
    def preprocess(self) -> ImagePreprocessing:
        """What brings pixels to the image tower's input."""
        return self.image.preprocessing

    def tokenize(self, texts: Sequence[str]) -> TokenBatch:
        """B texts → ids and mask, cut at the tower's limit."""
        return self._text_tower().tokens(texts)

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        """float (B, 3, H, W), normalised → (B, D) behind the head, not L2-normalised."""
        projected_BD: Tensor = self.image_head(self.image(image_BCHW))
        return projected_BD

    def encode_text(self, tokens: TokenBatch) -> Tensor:
        """Tokens → (B, D) behind the head, not L2-normalised."""
        projected_BD: Tensor = self.text_head(self._text_tower()(tokens))
        return projected_BD

    def forward(self, image_BCHW: Tensor, tokens: TokenBatch) -> tuple[Tensor, Tensor]:
        """Both encodings; what a data-parallel wrapper calls."""
        return self.encode_image(image_BCHW), self.encode_text(tokens)

    def retrieval_features(self, image_BCHW: Tensor) -> Tensor:
        """float (B, 3, H, W), normalised → float32 (B, R), rows of norm 1: what images are searched by."""
        if self.config.retrieval == "before_head":
            feature_BR = self.image.inner(image_BCHW)
        else:
            feature_BR = self.encode_image(image_BCHW)
        return functional.normalize(feature_BR.float(), dim=1)

    def text_features(self, tokens: TokenBatch) -> Tensor:
        """Tokens → float32 (B, D), rows of norm 1: compare with images *after* both heads."""
        return functional.normalize(self.encode_text(tokens).float(), dim=1)

    def image_features(self, image_BCHW: Tensor) -> Tensor:
        """float (B, 3, H, W), normalised → float32 (B, D), rows of norm 1: for text ↔ image search."""
        return functional.normalize(self.encode_image(image_BCHW).float(), dim=1)

    def clamp_logit_scale(self) -> None:
        """Bring the scale below its maximum; to be called after every optimizer step."""
        if self.logit_scale is not None and self.config.logit_scale is not None:
            clamp_(self.logit_scale, self.config.logit_scale.max)

    def parameter_groups(
        self, *, lr: float, weight_decay: float = 0.0, lrs: Mapping[str, float] | None = None
    ) -> list[dict[str, Any]]:
        """What is trained, in an optimizer's groups; the order is the same in every run.

        Args:
            lr: for every part that ``lrs`` does not name.
            weight_decay: of matrices and kernels; never of vectors, scalars and embeddings of positions.
            lrs: learning rates of ``image``, ``text``, ``heads``, ``logit_scale``.
        """
        parts: dict[str, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                parts.setdefault(_part_of(name), []).append((name, parameter))
        unknown = set(lrs or {}) - {"image", "text", "heads", "logit_scale"}
        if unknown:
            raise OptionError(
                f"no part is named {sorted(unknown)}",
                where="learning rates",
                hint="there are image, text, heads and logit_scale",
            )
        groups: list[dict[str, Any]] = []
        for part, named in parts.items():
            rate = (lrs or {}).get(part, lr)
            for decays in (True, False):
                chosen = [parameter for name, parameter in named if _decays(name, parameter) == decays]
                if chosen:
                    decay = weight_decay if decays else 0.0
                    label = part if decays else f"{part}-no-decay"
                    groups.append({"name": label, "params": chosen, "lr": rate, "weight_decay": decay})
        return groups


def _part_of(name: str) -> str:
    first = name.partition(".")[0]
    if first in {"image", "text"}:
        return first
    return "heads" if first.endswith("_head") else "logit_scale"


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and "positional_embedding" not in name and "position_embeddings" not in name


def build_dual_encoder(config: DualEncoderConfig, *, seed: int = 42) -> DualEncoder:
    """The model in training mode; whatever starts at random is drawn from ``seed`` alone."""
    return DualEncoder(config, seed=seed)
