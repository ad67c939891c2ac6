"""Batch norm over the images of all workers, so that N of them with batches of B train as one with a batch of N * B."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def synchronise_batch_norms(model: nn.Module, *, device: torch.device) -> None:
    """Replace every batch norm of the model by one over all workers; weights and names stay.

    On GPUs it is torch's, which refuses other devices; on CPUs ours.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d) and not isinstance(child, SynchronisedBatchNorm2d):
                synchronised: nn.Module = (
                    nn.SyncBatchNorm.convert_sync_batchnorm(child)  # type: ignore[no-untyped-call]  # torch's omission
                    if device.type == "cuda"
                    else SynchronisedBatchNorm2d.like(child)
                )
                setattr(parent, name, synchronised)


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose mean and variance are over all workers' images, in whatever precision sums are exact enough.

    The variance is summed about the common mean, in a second exchange: E[x^2] - E[x]^2 would lose its digits.
    """

    @classmethod
    def like(cls, other: nn.BatchNorm2d) -> SynchronisedBatchNorm2d:
        """With the same settings, and the other's own parameters and statistics."""
        made = cls(other.num_features, eps=other.eps, momentum=other.momentum)
        for name, parameter in other.named_parameters():
            setattr(made, name, parameter)
        for name, buffer in other.named_buffers():
            setattr(made, name, buffer)
        return made.train(other.training)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise (B, C, H, W) by the statistics of all workers' batches, or by the running ones in evaluation."""
        if not self.training:
            return super().forward(x_BCHW)
        wide_BCHW = x_BCHW.to(torch.promote_types(x_BCHW.dtype, torch.float32))
        count = wide_BCHW.new_tensor([wide_BCHW.numel() / wide_BCHW.shape[1]])
        sums = _sum_over_workers(torch.cat([wide_BCHW.sum((0, 2, 3)), count]))
        count = sums[-1].detach()
        mean_C = sums[:-1] / count
        centred_BCHW = wide_BCHW - mean_C[:, None, None]
        var_C = _sum_over_workers(centred_BCHW.square().sum((0, 2, 3))) / count
        self._note(mean_C.detach(), var_C.detach() * count / (count - 1).clamp(min=1))
        scale_C = self.weight * torch.rsqrt(var_C + self.eps)
        return (centred_BCHW * scale_C[:, None, None] + self.bias[:, None, None]).to(x_BCHW.dtype)

    def _note(self, mean_C: Tensor, unbiased_var_C: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased_var_C.to(self.running_var.dtype), self.momentum)


class _SumOverWorkers(torch.autograd.Function):
    """y = sum over workers of x. All workers' losses hang on each x, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _all_reduced(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        return _all_reduced(gradient)


def _sum_over_workers(x: Tensor) -> Tensor:
    total: Tensor = _SumOverWorkers.apply(x)
    return total


def _all_reduced(x: Tensor) -> Tensor:
    total = x.contiguous().clone()
    dist.all_reduce(total)
    return total
