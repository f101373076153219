"""A loss as a function of what the towers give, over the batch of one rank or of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from clinical_clip.errors import OptionError
from clinical_clip.loss.convirt import convirt
from clinical_clip.loss.gather import Gather, all_gather_with_grad, no_gather
from clinical_clip.loss.infonce import info_nce, same_text_mask
from clinical_clip.loss.siglip import siglip
from clinical_clip.model.dual import DualEncoder

if TYPE_CHECKING:
    from clinical_clip.train.config import LossConfig

__all__ = ["Objective"]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of a run, bound to the model's learned scale where it has one.

    Raises:
        OptionError: the loss needs a scale or a bias that the model lacks.
    """

    config: LossConfig
    model: DualEncoder

    def __post_init__(self) -> None:
        lacks_scale = self.config.kind != "convirt" and self.model.logit_scale is None
        if lacks_scale or (self.config.kind == "siglip" and self.model.logit_bias is None):
            raise OptionError(
                f"{self.config.kind} learns its temperature, and the model has none",
                where="model.logit_scale",
                hint="set a LogitScaleConfig; SigLIP's has a bias too",
            )
        if self.config.kind == "convirt" and self.config.mask_same_text:
            raise OptionError(
                "ConVIRT masks no equal texts", where="loss.mask_same_text", hint="leave it False"
            )
        if self.config.kind == "convirt" and self.model.logit_scale is not None:
            raise OptionError(
                "ConVIRT's temperature is fixed", where="model.logit_scale", hint="set logit_scale=None"
            )

    def of_global_batch(self, image_BD: Tensor, text_BD: Tensor, text_key_B: Tensor) -> Tensor:
        """This rank's mean over its B rows, each against the pairs of all ranks.

        The mean over ranks is the loss of the global batch.
        """
        return self._loss(image_BD, text_BD, text_key_B, all_gather_with_grad)

    def of_batch(self, image_BD: Tensor, text_BD: Tensor, text_key_B: Tensor) -> Tensor:
        """The loss of B pairs on their own, whatever other ranks do."""
        return self._loss(image_BD, text_BD, text_key_B, no_gather)

    def _loss(self, image_BD: Tensor, text_BD: Tensor, text_key_B: Tensor, gather: Gather) -> Tensor:
        config, scale, bias = self.config, self.model.logit_scale, self.model.logit_bias
        same = same_text_mask(text_key_B, gather=gather) if config.mask_same_text else None
        if config.kind == "info_nce" and scale is not None:
            return info_nce(image_BD, text_BD, scale, gather=gather, mask_same=same)
        if config.kind == "siglip" and scale is not None and bias is not None:
            return siglip(image_BD, text_BD, scale, bias, gather=gather, mask_same=same)
        return convirt(
            image_BD,
            text_BD,
            temperature=config.temperature,
            image_weight=config.image_weight,
            gather=gather,
        )
