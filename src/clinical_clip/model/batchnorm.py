"""BatchNorm under the three policies: running statistics frozen, per rank, across ranks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

__all__ = ["CrossRankBatchNorm2d", "batchnorms", "to_cross_rank", "uses_batch_statistics"]


def batchnorms(module: nn.Module) -> Iterator[nn.modules.batchnorm._BatchNorm]:
    """Every BatchNorm layer below ``module``."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            yield child


def uses_batch_statistics(module: nn.Module) -> bool:
    """Whether a forward pass now would mix the images of a batch: some BatchNorm is in training mode."""
    return any(layer.training for layer in batchnorms(module))


class CrossRankBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batch of all ranks, on any device.

    torch's SyncBatchNorm refuses CPU tensors; this one reduces the sums through autograd, so that two
    processes give the gradients of one. Outside a process group it is BatchNorm2d. All ranks must hold
    batches of the same size and must all call it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        alone = not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)
        if not self.training or alone:
            normed: Tensor = super().forward(input)
            return normed
        wide = input.float()
        count = wide.numel() // wide.shape[1] * dist.get_world_size()
        mean_C = _sum_over_ranks(wide.sum(dim=(0, 2, 3))) / count
        centred = wide - mean_C[None, :, None, None]
        var_C = _sum_over_ranks(centred.square().sum(dim=(0, 2, 3))) / count
        self._follow(mean_C.detach(), var_C.detach(), count)
        scale_C = torch.rsqrt(var_C + self.eps)
        if self.affine:
            scale_C = scale_C * self.weight
        out = centred * scale_C[None, :, None, None]
        if self.affine:
            out = out + self.bias[None, :, None, None]
        return out.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean_C: Tensor, var_C: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        factor = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), factor)
        unbiased_C = var_C * (count / max(count - 1, 1))
        self.running_var.lerp_(unbiased_C.to(self.running_var.dtype), factor)


def _sum_over_ranks(value: Tensor) -> Tensor:
    total: Tensor = all_reduce(value)  # type: ignore[no-untyped-call]
    return total


def to_cross_rank(module: nn.Module) -> nn.Module:
    """Turn every BatchNorm2d below ``module`` into CrossRankBatchNorm2d, in place; names stay the same."""
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = CrossRankBatchNorm2d
    return module
