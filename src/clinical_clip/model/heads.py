"""Projections behind the towers."""

from __future__ import annotations

from torch import Tensor, nn

from clinical_clip.model.config import HeadConfig

__all__ = ["LinearHead", "MlpHead", "build_head"]


class LinearHead(nn.Linear):
    """(B, in) → (B, d), W drawn from N(0, in^-0.5): for BERT's 768 that is N(0, 768^-0.5)."""

    def reset_parameters(self) -> None:
        """Draw the weights; a bias starts at zero."""
        nn.init.normal_(self.weight, std=self.in_features**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class MlpHead(nn.Module):
    """(B, in) → (B, d): W2·ReLU(W1·x) (Zhang et al. 2020, section 3.2)."""

    def __init__(self, width_in: int, hidden: int, width: int, *, bias: bool) -> None:
        super().__init__()
        self.first = nn.Linear(width_in, hidden, bias=bias)
        self.activation = nn.ReLU()
        self.second = nn.Linear(hidden, width, bias=bias)

    def forward(self, feature_BF: Tensor) -> Tensor:
        """(B, in) → (B, d)."""
        projected: Tensor = self.second(self.activation(self.first(feature_BF)))
        return projected


def build_head(config: HeadConfig, width_in: int) -> nn.Module:
    """The head that ``config`` describes, for features of ``width_in``."""
    if config.kind == "none":
        return nn.Identity()
    if config.kind == "linear":
        return LinearHead(width_in, config.width, bias=config.bias)
    return MlpHead(width_in, config.hidden or width_in, config.width, bias=config.bias)
