"""CLIP's symmetric InfoNCE (Radford et al. 2021, figure 3). B pairs a rank, N over all ranks, D width."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from clinical_clip.loss.gather import Gather, local_rows, no_gather
from clinical_clip.loss.precision import at_least_float32, without_autocast

__all__ = ["info_nce", "same_text_mask"]


@without_autocast
def info_nce(
    image_BD: Tensor,
    text_BD: Tensor,
    logit_scale: Tensor,
    *,
    gather: Gather = no_gather,
    mask_same: Tensor | None = None,
) -> Tensor:
    """Mean of the two cross-entropies of image→text and text→image over the batch.

    Args:
        image_BD, text_BD: float (B, D); they are L2-normalised here, in float32 at least.
        logit_scale: scalar, ln of the factor in front of the cosines.
        gather: brings (B, D) of every rank to (N, D) on every rank, own rank in its place; see
            :mod:`clinical_clip.loss.gather`. Each rank then scores its own B rows against all N, and
            data-parallel averaging of gradients gives those of one process with all N pairs.
        mask_same: bool (B, N), True where the text of column n is the same as that of row b: not counted
            as a negative. None counts all (CLIP's own, and the paper's rows).

    Returns:
        scalar: this rank's mean over its B rows.
    """
    image_BD = functional.normalize(at_least_float32(image_BD), dim=1)
    text_BD = functional.normalize(at_least_float32(text_BD), dim=1)
    image_ND, text_ND = gather(image_BD), gather(text_BD)
    scale = at_least_float32(logit_scale).exp()
    rows_B = local_rows(len(image_BD), gather, device=image_BD.device)
    by_image_BN = scale * image_BD @ text_ND.T
    by_text_BN = scale * text_BD @ image_ND.T
    if mask_same is not None:
        own_BN = functional.one_hot(rows_B, len(text_ND)).bool()
        left_out_BN = mask_same & ~own_BN
        by_image_BN = by_image_BN.masked_fill(left_out_BN, float("-inf"))
        by_text_BN = by_text_BN.masked_fill(left_out_BN, float("-inf"))
    return (functional.cross_entropy(by_image_BN, rows_B) + functional.cross_entropy(by_text_BN, rows_B)) / 2


def same_text_mask(text_ids_B: Tensor, *, gather: Gather = no_gather) -> Tensor:
    """Which texts are the same.

    Args:
        text_ids_B: integer (B,), equal where texts are (a hash of the text).

    Returns:
        bool (B, N).
    """
    return text_ids_B[:, None] == gather(text_ids_B)[None, :]
