"""Batches of token ids, and the two ways to make them: CLIP's BPE and a BERT's WordPiece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["BertTokens", "ClipTokens", "TokenBatch", "Tokens"]


@dataclass(frozen=True)
class TokenBatch:
    """B texts, padded to L.

    Attributes:
        ids_BL: int64 (B, L).
        mask_BL: bool (B, L), False where padded.
        truncated: how many of the texts were cut.
    """

    ids_BL: Tensor
    mask_BL: Tensor
    truncated: int = 0

    def __len__(self) -> int:
        return int(self.ids_BL.shape[0])

    def __getitem__(self, rows: slice) -> TokenBatch:
        """Some of the rows, without the columns that are padding in all of them."""
        mask_BL = self.mask_BL[rows]
        length = max(1, int(mask_BL.sum(dim=1).max())) if len(mask_BL) else 0
        return TokenBatch(self.ids_BL[rows, :length], mask_BL[:, :length])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> TokenBatch:
        """The same on another device."""
        ids_BL = self.ids_BL.to(device, non_blocking=non_blocking)
        return TokenBatch(ids_BL, self.mask_BL.to(device, non_blocking=non_blocking), self.truncated)

    def pin_memory(self) -> TokenBatch:
        """The same in page-locked memory; data loaders call it."""
        return TokenBatch(self.ids_BL.pin_memory(), self.mask_BL.pin_memory(), self.truncated)


class Tokens(Protocol):
    """Texts to token ids."""

    max_tokens: int

    def __call__(self, texts: Sequence[str]) -> TokenBatch: ...

    def count(self, text: str) -> int:
        """Tokens of the whole text, special ones counted, nothing cut."""
        ...


def _pad(rows: Sequence[Sequence[int]], limit: int, end: int, pad: int, width: int = 0) -> TokenBatch:
    cut = sum(len(row) > limit for row in rows)
    kept = [row if len(row) <= limit else [*row[: limit - 1], end] for row in rows]
    length = max([width, *(len(row) for row in kept)])
    ids_BL = torch.full((len(kept), length), pad, dtype=torch.int64)
    mask_BL = torch.zeros(len(kept), length, dtype=torch.bool)
    for number, row in enumerate(kept):
        ids_BL[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
        mask_BL[number, : len(row)] = True
    return TokenBatch(ids_BL, mask_BL, cut)


@cache
def _clip_bpe() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


class ClipTokens:
    """open_clip's BPE. The end token is kept when a text is cut.

    Batches are padded to their longest text, not to 77: the attention is causal and the feature is taken
    at the end token, so that padding behind it changes nothing.

    >>> batch = ClipTokens(max_tokens=4)(["chest", "a chest x-ray of the left lung"])
    >>> batch.ids_BL[1, -1].item(), batch.truncated
    (49407, 1)
    """

    def __init__(self, *, max_tokens: int = 77, vocabulary: int = 49408) -> None:
        self.max_tokens = max_tokens
        self.vocabulary = vocabulary
        self._bpe = _clip_bpe()

    def _encode(self, text: str) -> list[int]:
        ids = self._bpe.encode(text)
        if self.vocabulary < self._bpe.vocab_size:  # the tiny tower: fold words, keep start and end last
            ids = [number % (self.vocabulary - 2) for number in ids]
        return [self.vocabulary - 2, *ids, self.vocabulary - 1]

    def count(self, text: str) -> int:
        """Tokens of the whole text with start and end.

        >>> ClipTokens().count("chest")
        3
        """
        return len(self._encode(text))

    def __call__(self, texts: Sequence[str]) -> TokenBatch:
        """B texts → their ids, padded with 0 behind the end token."""
        rows = [self._encode(text) for text in texts]
        return _pad(rows, self.max_tokens, end=self.vocabulary - 1, pad=0)


class BertTokens:
    """A BERT's own tokenizer; the closing [SEP] is kept when a text is cut."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int) -> None:
        tokenizer.model_max_length = 10**9  # cutting and counting are done here
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    def count(self, text: str) -> int:
        """Tokens of the whole text with [CLS] and [SEP]."""
        return len(self.tokenizer(text)["input_ids"])

    def __call__(self, texts: Sequence[str]) -> TokenBatch:
        """B texts → their ids, padded to the longest."""
        rows = self.tokenizer(list(texts), padding=False, truncation=False)["input_ids"]
        tokenizer = self.tokenizer
        return _pad(rows, self.max_tokens, end=int(tokenizer.sep_token_id), pad=int(tokenizer.pad_token_id))
