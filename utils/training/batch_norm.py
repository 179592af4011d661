"""Batch-norm statistics: restored after a bad batch, shared across processes, computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from utils.datasets.dataset import Batch
from utils.runtime.device import images_to_device
from utils.runtime.distributed import Distributed, all_reduce_sum
from utils.solver.param_groups import NORM_LAYERS


class BatchNormStats:
    """The running means and variances of a model, which a forward pass in training mode changes.

    Args:
        model: its norm layers must keep their buffers.
    """

    def __init__(self, model: nn.Module) -> None:
        norms = [module for module in model.modules() if isinstance(module, NORM_LAYERS)]
        buffers = [buffer for norm in norms for buffer in norm.buffers()]
        self._statistics = [buffer for buffer in buffers if buffer.is_floating_point()]
        self._counters = [buffer for buffer in buffers if not buffer.is_floating_point()]
        self._saved = [torch.empty_like(buffer) for buffer in self._statistics]

    @torch.no_grad()
    def snapshot(self) -> None:
        """Save the statistics before a batch, which may be non-finite."""
        if self._saved:
            torch._foreach_copy_(self._saved, self._statistics)

    @torch.no_grad()
    def nonfinite(self) -> Tensor:
        """Scalar: 0 if all statistics are finite, else NaN.

        The loss can be finite although a variance overflowed.
        """
        if not self._statistics:
            return torch.zeros(())
        return torch.cat(self._statistics).sum() * 0

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the statistics of `snapshot`, after one forward pass."""
        if self._saved:
            torch._foreach_copy_(self._statistics, self._saved)
            torch._foreach_sub_(self._counters, 1)

    @torch.no_grad()
    def average(self, distributed: Distributed) -> None:
        """Set the statistics of every process to the mean over all processes."""
        if distributed.world_size == 1 or not self._statistics:
            return
        shared = torch.cat(self._statistics)
        mean = distributed.all_reduce_sum(shared) / distributed.world_size
        torch._foreach_copy_(self._statistics, list(mean.split([len(b) for b in self._statistics])))


@torch.no_grad()
def recompute_statistics(
    model: nn.Module, batches: Iterable[Batch], device: torch.device, check: Callable[[], None]
) -> None:
    """Replace all batch-norm statistics by their cumulative mean over batches, in fp32.

    The mean of several weights needs its own statistics, because activations are not linear in the
    weights (Izmailov et al. 2018, arXiv 1803.05407, section 3.2). Leaves the model in eval mode.
    `check` is called after each batch; it may raise an exception to stop.
    """
    norms = [module for module in model.eval().modules() if isinstance(module, NORM_LAYERS)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # for torch: a cumulative mean
        norm.train()
    for batch in batches if norms else ():
        model(images_to_device(batch.images, device))
        check()
    model.eval()


class _AllReduceSum(torch.autograd.Function):
    """Sum of a tensor over all processes; backward sums the gradient over them too."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return all_reduce_sum(x)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return all_reduce_sum(gradient)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the images of all processes, for devices without `nn.SyncBatchNorm`."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `[B, C, H, W]`; the statistics are in float32, as in `nn.BatchNorm2d`."""
        if not self.training:
            return super().forward(x)
        wide = x.float()
        axes = (0, 2, 3)
        counted = wide.new_tensor([wide.numel() / wide.shape[1]])
        sums = _AllReduceSum.apply(torch.cat((wide.sum(axes), counted)))
        count = sums[-1].detach()
        centred = wide - (sums[:-1] / count)[:, None, None]
        # In two passes, because mean(x²) - mean(x)² loses digits.
        variance = _AllReduceSum.apply(centred.square().sum(axes)) / count
        self._update_running_stats(
            sums[:-1].detach() / count, variance.detach() * count / (count - 1)
        )
        normal = centred * (variance + self.eps).rsqrt()[:, None, None]
        return (normal * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @staticmethod
    def from_batch_norm(norm: nn.BatchNorm2d) -> SyncBatchNorm2d:
        """Convert a layer; shares its parameters and buffers."""
        shared = SyncBatchNorm2d(norm.num_features, norm.eps, norm.momentum)
        for name, parameter in norm.named_parameters():
            setattr(shared, name, parameter)
        for name, buffer in norm.named_buffers():
            setattr(shared, name, buffer)
        return shared

    @torch.no_grad()
    def _update_running_stats(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics with those of a batch; `variance` is unbiased."""
        running = (self.running_mean, self.running_var)
        for buffer, value in zip(running, (mean, variance), strict=True):
            if buffer is not None and self.momentum is not None:
                buffer.lerp_(value, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


Model = TypeVar("Model", bound=nn.Module)


def convert_sync_batchnorm(model: Model, device: torch.device) -> Model:
    """Replace batch norms by synchronized ones, which see the images of all processes.

    Names and values of parameters and buffers do not change.
    """
    if device.type == "cuda":
        converted: Model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    for parent in list(model.modules()):
        for name, norm in parent.named_children():
            if type(norm) is nn.BatchNorm2d:
                setattr(parent, name, SyncBatchNorm2d.from_batch_norm(norm))
    return model
