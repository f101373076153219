"""SigLIP's pairwise sigmoid loss (Zhai et al. 2023, algorithm 1)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from clinical_clip.loss.gather import Gather, local_rows, no_gather
from clinical_clip.loss.precision import at_least_float32, without_autocast

__all__ = ["siglip"]


@without_autocast
def siglip(
    image_BD: Tensor,
    text_BD: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    *,
    gather: Gather = no_gather,
    mask_same: Tensor | None = None,
) -> Tensor:
    """Sum over all pairs of -ln σ(±(scale·cosine + bias)), + for a pair and - for all others, over B.

    Args:
        image_BD, text_BD: float (B, D); they are L2-normalised here, in float32 at least.
        logit_scale: scalar, ln of the scale (the paper starts at ln 10).
        logit_bias: scalar (the paper starts at -10).
        gather: as in ``info_nce``; each rank scores its images against the texts of all.
        mask_same: bool (B, N), True where texts are the same: left out unless it is the pair itself.

    Returns:
        scalar: this rank's sum over its B rows divided by B.
    """
    image_BD = functional.normalize(at_least_float32(image_BD), dim=1)
    text_ND = gather(functional.normalize(at_least_float32(text_BD), dim=1))
    logits_BN = at_least_float32(logit_scale).exp() * image_BD @ text_ND.T + at_least_float32(logit_bias)
    rows_B = local_rows(len(image_BD), gather, device=image_BD.device)
    own_BN = functional.one_hot(rows_B, len(text_ND)).bool()
    sign_BN = own_BN.to(logits_BN.dtype) * 2 - 1
    cost_BN = -functional.logsigmoid(sign_BN * logits_BN)
    if mask_same is not None:
        cost_BN = cost_BN.masked_fill(mask_same & ~own_BN, 0.0)
    return cost_BN.sum() / len(image_BD)
