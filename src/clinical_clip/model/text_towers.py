"""Text towers: open_clip's text transformer and BERTs of transformers behind one interface.

Shapes: B texts of L tokens, hidden width W, feature width D.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn

from clinical_clip.errors import OptionError
from clinical_clip.model.config import Pooling, TextTowerConfig
from clinical_clip.model.image_towers import clip_config
from clinical_clip.model.tokens import BertTokens, ClipTokens, TokenBatch, Tokens
from clinical_clip.model.weights import load_text_weights

__all__ = ["BertTower", "ClipTextTower", "TextTower", "build_text_tower", "pool"]


class TextTower(nn.Module, ABC):
    """What every text tower offers. ``forward`` is ``upper(lower(tokens))``.

    ``lower`` is the frozen part: embeddings and the first ``frozen_layers`` layers. It takes no gradient
    and stays in eval mode (no dropout), so that its output is a function of the text alone and may be
    computed once and kept. With ``frozen_layers`` 0 it is the embeddings, and is trained.

    Attributes:
        width: D of ``forward``.
        tokens: texts to ids.
        frozen_layers: 0 trains all.
    """

    body: Any

    def __init__(self, body: nn.Module, tokens: Tokens, *, width: int, frozen_layers: int) -> None:
        super().__init__()
        self.body = body
        self.tokens = tokens
        self.width = width
        self.frozen_layers = frozen_layers
        layers = self.layers()
        if frozen_layers > len(layers):
            raise OptionError(
                f"{frozen_layers} frozen layers of {len(layers)}", where="frozen_layers", hint="ask for fewer"
            )
        for part in self.frozen_parts():
            part.requires_grad_(False)

    @abstractmethod
    def layers(self) -> nn.ModuleList:
        """The transformer's layers, lowest first."""

    @abstractmethod
    def embeddings(self) -> list[nn.Module | nn.Parameter]:
        """What turns ids to the first layer's input."""

    def frozen_parts(self) -> list[nn.Module | nn.Parameter]:
        """What takes no gradient."""
        if self.frozen_layers == 0:
            return []
        return [*self.embeddings(), *self.layers()[: self.frozen_layers]]

    def train(self, mode: bool = True) -> TextTower:
        """Training mode, but for what is frozen."""
        super().train(mode)
        for part in self.frozen_parts():
            if isinstance(part, nn.Module):
                part.eval()
        return self

    @abstractmethod
    def lower(self, tokens: TokenBatch) -> Tensor:
        """Tokens → (B, L, W), the input of the first layer that is trained."""

    @abstractmethod
    def upper(self, hidden_BLW: Tensor, tokens: TokenBatch) -> Tensor:
        """(B, L, W) of ``lower`` and the tokens' ids and mask → (B, D)."""

    def forward(self, tokens: TokenBatch) -> Tensor:
        """Tokens → (B, D)."""
        return self.upper(self.lower(tokens), tokens)


class ClipTextTower(TextTower):
    """open_clip's TextTransformer: causal, the feature taken at the end token, CLIP's projection kept."""

    def layers(self) -> nn.ModuleList:
        """Its residual blocks."""
        return cast(nn.ModuleList, self.body.transformer.resblocks)

    def embeddings(self) -> list[nn.Module | nn.Parameter]:
        """Token and position embeddings."""
        return [self.body.token_embedding, self.body.positional_embedding]

    def _blocks(self, x_BLW: Tensor, start: int, stop: int) -> Tensor:
        length = x_BLW.shape[1]
        mask_LL = self.body.attn_mask[:length, :length]
        for block in self.layers()[start:stop]:
            x_BLW = block(x_BLW, attn_mask=mask_LL)
        return x_BLW

    def lower(self, tokens: TokenBatch) -> Tensor:
        """Tokens → (B, L, W)."""
        embedded_BLW = self.body._embeds(tokens.ids_BL)[0]
        return self._blocks(embedded_BLW, 0, self.frozen_layers)

    def upper(self, hidden_BLW: Tensor, tokens: TokenBatch) -> Tensor:
        """(B, L, W) → (B, D): the end token after ``ln_final``, projected."""
        x_BLW = self._blocks(hidden_BLW, self.frozen_layers, len(self.layers()))
        end_B = tokens.ids_BL.argmax(dim=1)  # the end token has the greatest id
        pooled_BW = self.body.ln_final(x_BLW)[torch.arange(len(x_BLW), device=x_BLW.device), end_B]
        projected_BD: Tensor = pooled_BW @ self.body.text_projection
        return projected_BD


class BertTower(TextTower):
    """A BERT (``embeddings``, ``encoder.layer``, ``pooler``) of transformers with one of four poolings."""

    def __init__(
        self, body: nn.Module, tokens: Tokens, *, width: int, frozen_layers: int, pooling: Pooling
    ) -> None:
        super().__init__(body, tokens, width=width, frozen_layers=frozen_layers)
        self.pooling = pooling

    def layers(self) -> nn.ModuleList:
        """The encoder's layers."""
        return cast(nn.ModuleList, self.body.encoder.layer)

    def embeddings(self) -> list[nn.Module | nn.Parameter]:
        """Word, position and type embeddings with their LayerNorm."""
        return [self.body.embeddings]

    def _blocks(self, x_BLW: Tensor, mask_BL: Tensor, start: int, stop: int) -> Tensor:
        mask_B11L = mask_BL[:, None, None, :]
        mask_BQL = mask_B11L.expand(-1, -1, mask_BL.shape[1], -1)
        for layer in self.layers()[start:stop]:
            x_BLW = layer(x_BLW, mask_BQL)
        return x_BLW

    def lower(self, tokens: TokenBatch) -> Tensor:
        """Tokens → (B, L, W)."""
        embedded_BLW = self.body.embeddings(input_ids=tokens.ids_BL)
        return self._blocks(embedded_BLW, tokens.mask_BL, 0, self.frozen_layers)

    def upper(self, hidden_BLW: Tensor, tokens: TokenBatch) -> Tensor:
        """(B, L, W) → (B, W), pooled."""
        x_BLW = self._blocks(hidden_BLW, tokens.mask_BL, self.frozen_layers, len(self.layers()))
        if self.pooling == "pooler":
            pooled_BW: Tensor = self.body.pooler(x_BLW)
            return pooled_BW
        return pool(x_BLW, tokens.mask_BL, self.pooling)


def pool(x_BLW: Tensor, mask_BL: Tensor, pooling: Pooling) -> Tensor:
    """``mean``, ``max`` (both without the padding) or ``cls`` over L.

    >>> x = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> pool(x, torch.tensor([[True, True, False]]), "max").item()
    3.0
    """
    if pooling == "cls":
        return x_BLW[:, 0]
    if pooling == "max":
        return x_BLW.masked_fill(~mask_BL[..., None], -torch.inf).amax(dim=1)
    weight_BL1 = mask_BL[..., None].to(x_BLW.dtype)
    return (x_BLW * weight_BL1).sum(dim=1) / weight_BL1.sum(dim=1)


def build_text_tower(config: TextTowerConfig) -> TextTower:
    """The tower that ``config`` describes, weights loaded and lower layers frozen.

    Raises:
        WeightsError: weights are missing, damaged or do not fit.
    """
    if config.kind == "clip":
        return _clip(config).train()
    from clinical_clip.model.bert import open_bert

    body, tokenizer = open_bert(config)
    longest = int(body.config.max_position_embeddings)
    if config.max_tokens > longest:
        raise OptionError(
            f"{config.max_tokens} tokens for a text tower of {longest} positions",
            where="max_tokens",
            hint=f"ask for at most {longest}",
        )
    if config.pooling != "pooler":
        body.pooler = None
    tower = BertTower(
        body,
        BertTokens(tokenizer, max_tokens=config.max_tokens),
        width=int(body.config.hidden_size),
        frozen_layers=config.frozen_layers,
        pooling=config.pooling,
    )
    return tower.train()


def _clip(config: TextTowerConfig) -> TextTower:
    from open_clip.transformer import QuickGELU, TextTransformer

    if config.architecture == "tiny-clip":
        numbers = {"context_length": 32, "vocab_size": 512, "width": 64, "heads": 2, "layers": 2}
        out = 32
    else:
        found = clip_config(config.architecture)
        numbers, out = found["text_cfg"], found["embed_dim"]
    if config.max_tokens > numbers["context_length"]:
        raise OptionError(
            f"{config.max_tokens} tokens for a text tower of {numbers['context_length']} positions",
            where="max_tokens",
            hint=f"ask for at most {numbers['context_length']}",
        )
    body = TextTransformer(**numbers, output_dim=out, act_layer=QuickGELU)
    if config.weights is not None:
        load_text_weights(body, config.weights)
    tokens = ClipTokens(max_tokens=config.max_tokens, vocabulary=numbers["vocab_size"])
    return ClipTextTower(body, tokens, width=out, frozen_layers=config.frozen_layers)
