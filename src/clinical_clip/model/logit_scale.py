"""The learned inverse temperature of CLIP, and SigLIP's bias, both scalars."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clinical_clip.errors import OptionError
from clinical_clip.model.config import LogitScaleConfig

__all__ = ["clamp_", "new_logit_bias", "new_logit_scale"]


def new_logit_scale(config: LogitScaleConfig, from_weights: Tensor | None) -> nn.Parameter:
    """ln of the scale as a float32 scalar parameter.

    Args:
        from_weights: the archive's value, taken where ``config.init`` is None.
    """
    if config.init is not None:
        start = torch.tensor(config.init, dtype=torch.float32)
    elif from_weights is not None:
        start = from_weights.detach().clone().to(torch.float32).reshape(())
    else:
        raise OptionError(
            "the logit scale goes on from weights, and there are none",
            where="logit_scale",
            hint="give the image tower OpenAI's archive, or set init",
        )
    return nn.Parameter(start, requires_grad=config.learned)


def new_logit_bias(config: LogitScaleConfig) -> nn.Parameter | None:
    """SigLIP's bias as a float32 scalar parameter, or None."""
    if config.bias is None:
        return None
    return nn.Parameter(torch.tensor(config.bias, dtype=torch.float32), requires_grad=config.learned)


@torch.no_grad()
def clamp_(logit_scale: nn.Parameter, maximum: float | None) -> None:
    """Bring the parameter to at most ``maximum`` in place (CLIP: ln 100)."""
    if maximum is not None:
        logit_scale.clamp_(max=maximum)
