"""The running statistics of batch norms: put back after a bad batch, shared between processes."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from utils.runtime.distributed import Distributed, peer_failures_as_user_errors
from utils.solver.param_groups import NORM_LAYERS


class BatchNormStats:
    """Means and variances that a forward pass in training mode changes.

    Args:
        model: whose norm layers are looked after; they keep their buffers.
    """

    def __init__(self, model: nn.Module) -> None:
        norms = [module for module in model.modules() if isinstance(module, NORM_LAYERS)]
        buffers = [buffer for norm in norms for buffer in norm.buffers()]
        self._averages = [buffer for buffer in buffers if buffer.is_floating_point()]
        self._counters = [buffer for buffer in buffers if not buffer.is_floating_point()]
        self._kept = [torch.empty_like(buffer) for buffer in self._averages]

    @torch.no_grad()
    def snapshot(self) -> None:
        """Remember them, before a batch that may turn out bad."""
        if self._kept:
            torch._foreach_copy_(self._kept, self._averages)

    @torch.no_grad()
    def nonfinite(self) -> Tensor:
        """0 if all are finite, else NaN; a loss may be finite although a variance overflowed."""
        if not self._averages:
            return torch.zeros(())
        return torch.cat(self._averages).sum() * 0

    @torch.no_grad()
    def restore(self) -> None:
        """Undo what one forward pass did to them since `keep`."""
        if self._kept:
            torch._foreach_copy_(self._averages, self._kept)
            torch._foreach_sub_(self._counters, 1)

    @torch.no_grad()
    def average(self, distributed: Distributed) -> None:
        """Give every process the mean of all processes' statistics."""
        if distributed.world_size == 1 or not self._averages:
            return
        shared = torch.cat(self._averages)
        mean = distributed.all_reduce_sum(shared) / distributed.world_size
        torch._foreach_copy_(self._averages, list(mean.split([len(b) for b in self._averages])))


class _Total(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient, since every output is in it."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(x: Tensor) -> Tensor:
    total = x.clone()
    with peer_failures_as_user_errors():
        dist.all_reduce(total)
    return total


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the images of all processes, for devices that torch's own is not made for."""

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same shape; statistics in float32, as in `nn.BatchNorm2d`."""
        if not self.training:
            return super().forward(x)
        wide = x.float()
        axes = (0, 2, 3)
        counted = wide.new_tensor([wide.numel() / wide.shape[1]])
        sums = _Total.apply(torch.cat((wide.sum(axes), counted)))
        count = sums[-1].detach()
        centred = wide - (sums[:-1] / count)[:, None, None]
        # In two passes, since a mean of squares less a square of means loses digits.
        variance = _Total.apply(centred.square().sum(axes)) / count
        self._remember(sums[:-1].detach() / count, variance.detach() * count / (count - 1))
        normal = centred * (variance + self.eps).rsqrt()[:, None, None]
        return (normal * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @staticmethod
    def taking_over(norm: nn.BatchNorm2d) -> SharedBatchNorm2d:
        """A layer with the very parameters and buffers of another."""
        shared = SharedBatchNorm2d(norm.num_features, norm.eps, norm.momentum)
        for name, parameter in norm.named_parameters():
            setattr(shared, name, parameter)
        for name, buffer in norm.named_buffers():
            setattr(shared, name, buffer)
        return shared

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Take a batch's statistics into the running ones; the variance is the unbiased one."""
        running = (self.running_mean, self.running_var)
        for average, value in zip(running, (mean, variance), strict=True):
            if average is not None and self.momentum is not None:
                average.lerp_(value, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


Model = TypeVar("Model", bound=nn.Module)


def convert_sync_batchnorm(model: Model, device: torch.device) -> Model:
    """Let every batch norm see the images of all processes; names and values stay as they are."""
    if device.type == "cuda":
        converted: Model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    for parent in list(model.modules()):
        for name, norm in parent.named_children():
            if type(norm) is nn.BatchNorm2d:
                setattr(parent, name, SharedBatchNorm2d.taking_over(norm))
    return model
