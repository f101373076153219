"""The frozen part of the text tower, computed once a caption and kept in a file by digest.

The frozen layers run in eval mode, so that what they give is a function of the caption alone. Kept is
what stands in front of the first trained layer, (L, W) a caption, or behind a tower of which nothing
learns, (W,).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clinical_clip.errors import OptionError, StoreError
from clinical_clip.model.text_towers import TextTower
from clinical_clip.model.tokens import TokenBatch
from clinical_clip.model.weights import state_sha256
from clinical_clip.train.data import Batch

__all__ = ["TextCache", "open_text_cache"]

_CHUNK = 64


class TextCache:
    """Rows of the cache for the pairs of a batch.

    Args:
        rows_NW: (T, W) memory-mapped rows: one a caption, or one a token.
        start_N: first row of each pair; stop_N: the row behind its last.
        whole: the rows stand behind the whole tower, one a caption.
    """

    def __init__(
        self,
        rows_NW: NDArray[np.float32],
        start_N: NDArray[np.int64],
        stop_N: NDArray[np.int64],
        *,
        whole: bool,
    ) -> None:
        self._rows, self._start, self._stop, self.whole = rows_NW, start_N, stop_N, whole

    def rows(self, batch: Batch) -> Tensor:
        """(B, W), or (B, L, W) padded with zeros to the batch's tokens, on the batch's device."""
        index_B = batch.index_B.cpu().numpy()
        if self.whole:
            found = torch.from_numpy(self._rows[self._start[index_B]])
        else:
            found = torch.zeros(*batch.tokens.ids_BL.shape, self._rows.shape[1])
            for row, index in enumerate(index_B):
                first, last = self._start[index], self._stop[index]
                found[row, : last - first] = torch.from_numpy(self._rows[first:last].astype(np.float32))
        return found.to(batch.image_BHWC.device, non_blocking=True)


def open_text_cache(
    tower: TextTower,
    captions: Sequence[str],
    folder: Path,
    *,
    dtype: type[np.float32] | type[np.float16] = np.float32,
    progress: Callable[[int, int], None] | None = None,
) -> TextCache:
    """The cache of ``captions`` under ``folder``, computed where it is not there yet.

    Args:
        captions: one a pair; equal ones are computed once.
        dtype: of the file; float16 halves it.
        progress: called with the number of captions done and of all.

    Raises:
        OptionError: the text tower has no frozen part.
        StoreError: the file cannot be written.
    """
    whole = not any(parameter.requires_grad for parameter in tower.parameters())
    if not whole and tower.frozen_layers == 0:
        raise OptionError(
            "no part of the text tower is frozen", where="text_cache", hint="freeze layers, or do without"
        )
    unique = sorted(
        set(captions), key=lambda caption: (len(caption), caption)
    )  # alike in length: little padding
    number = {caption: place for place, caption in enumerate(unique)}
    place_N = np.array([number[caption] for caption in captions])
    tokens = tower.tokens(unique)
    length_N = np.ones(len(unique), np.int64) if whole else tokens.mask_BL.sum(1).numpy().astype(np.int64)
    bound_N = np.concatenate([[0], np.cumsum(length_N)])
    path = folder / f"text-{_digest(tower, tokens, whole, np.dtype(dtype).name)[:24]}.npy"
    if not path.exists():
        _write(path, tower, tokens, bound_N, np.dtype(dtype), whole, progress)
    rows_NW = np.load(path, mmap_mode="r", allow_pickle=False)
    return TextCache(rows_NW, bound_N[place_N], bound_N[place_N + 1], whole=whole)


def _digest(tower: TextTower, tokens: TokenBatch, whole: bool, dtype: str) -> str:
    """Of all that the rows depend on: the text tower's frozen weights, its pooling, the tokens."""
    frozen = {name: p for name, p in tower.named_parameters() if not p.requires_grad}
    settings = (
        f"{state_sha256(frozen)}|{getattr(tower, 'pooling', 'eot')}|{tower.frozen_layers}|{whole}|{dtype}"
    )
    sha = hashlib.sha256(settings.encode())
    for tensor in (tokens.ids_BL, tokens.mask_BL):
        sha.update(str(tuple(tensor.shape)).encode())
        sha.update(tensor.numpy().tobytes())
    return sha.hexdigest()


@torch.no_grad()
def _write(  # noqa: PLR0917
    path: Path,
    tower: TextTower,
    tokens: TokenBatch,
    bound_N: NDArray[np.int64],
    dtype: np.dtype[np.floating],
    whole: bool,
    progress: Callable[[int, int], None] | None,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    device = next(tower.parameters()).device
    width = tower.width if whole else int(tower.lower(tokens[:1].to(device)).shape[-1])
    was_training = tower.training
    tower.eval()
    try:
        shape = (int(bound_N[-1]), width)
        rows_NW = np.lib.format.open_memmap(temp, mode="w+", dtype=dtype, shape=shape)
        for first in range(0, len(tokens), _CHUNK):
            part = tokens[first : first + _CHUNK].to(device)
            hidden = (tower(part) if whole else tower.lower(part)).float().cpu().numpy()
            for row in range(len(part)):
                start, stop = bound_N[first + row], bound_N[first + row + 1]
                rows_NW[start:stop] = hidden[row] if whole else hidden[row, : stop - start]
            if progress is not None:
                progress(first + len(part), len(tokens))
        rows_NW.flush()
        del rows_NW
        os.replace(temp, path)
    except OSError as error:
        raise StoreError(
            f"the text cache cannot be written: {error.strerror or type(error).__name__}",
            where=str(path.parent),
            hint="free some space, or train without text_cache",
        ) from error
    finally:
        temp.unlink(missing_ok=True)
        tower.train(was_training)
