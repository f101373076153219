"""ConVIRT's bidirectional loss (Zhang et al. 2020, equations 2 to 4)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from clinical_clip.loss.gather import Gather, local_rows, no_gather
from clinical_clip.loss.precision import at_least_float32, without_autocast

__all__ = ["convirt"]


@without_autocast
def convirt(
    image_BD: Tensor,
    text_BD: Tensor,
    *,
    temperature: float = 0.1,
    image_weight: float = 0.75,
    gather: Gather = no_gather,
) -> Tensor:
    """Mean of λ·l(v→u) + (1-λ)·l(u→v), l the cross-entropy of cosines divided by τ.

    Args:
        image_BD, text_BD: float (B, D); they are L2-normalised here, in float32 at least.
        temperature: τ, fixed.
        image_weight: λ, of image→text.
        gather: as in ``info_nce``.

    Returns:
        scalar: this rank's mean over its B rows.
    """
    image_BD = functional.normalize(at_least_float32(image_BD), dim=1)
    text_BD = functional.normalize(at_least_float32(text_BD), dim=1)
    image_ND, text_ND = gather(image_BD), gather(text_BD)
    rows_B = local_rows(len(image_BD), gather, device=image_BD.device)
    to_text = functional.cross_entropy(image_BD @ text_ND.T / temperature, rows_B)
    to_image = functional.cross_entropy(text_BD @ image_ND.T / temperature, rows_B)
    return image_weight * to_text + (1 - image_weight) * to_image
