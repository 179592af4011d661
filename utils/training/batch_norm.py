"""Batch-norm statistics: restored after a bad batch, shared across processes, computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from utils.datasets.dataset import Batch
from utils.runtime.device import images_to_device
from utils.runtime.distributed import Distributed, all_gather, all_reduce_sum
from utils.solver.param_groups import NORM_LAYERS

AXES = (0, 2, 3)
"""Images, rows and columns: the axes that batch norm averages over."""


class BatchNormStats:
    """The running means and variances of a model, which a forward pass in training mode changes.

    Nothing here waits for the device.

    Args:
        model: its norm layers must keep their buffers.
    """

    def __init__(self, model: nn.Module) -> None:
        norms = [(name, m) for name, m in model.named_modules() if isinstance(m, NORM_LAYERS)]
        self._buffers = {k: b for name, norm in norms for k, b in norm.named_buffers(prefix=name)}
        self._statistics = [b for b in self._buffers.values() if b.is_floating_point()]
        self._counters = [b for b in self._buffers.values() if not b.is_floating_point()]
        self.saved = {name: torch.empty_like(buffer) for name, buffer in self._buffers.items()}
        """The buffers at the last `snapshot`, by name."""

    @torch.no_grad()
    def snapshot(self) -> None:
        """Save the statistics before a batch, which may be non-finite."""
        if self.saved:
            torch._foreach_copy_(list(self.saved.values()), list(self._buffers.values()))

    @torch.no_grad()
    def nonfinite(self) -> Tensor:
        """Scalar: 0 if all statistics are finite, else NaN.

        The loss can be finite although a variance overflowed.
        """
        if not self._statistics:
            return torch.zeros(())
        return torch.cat(self._statistics).sum() * 0

    @torch.no_grad()
    def restore(self, bad: Tensor | None = None) -> None:
        """Restore the statistics of `snapshot`, after one forward pass.

        Args:
            bad: scalar on the device, whether to restore them; None: yes.
        """
        if not self.saved:
            return
        if bad is None:
            torch._foreach_copy_(list(self._buffers.values()), list(self.saved.values()))
            return
        saved = torch.cat([t for t in self.saved.values() if t.is_floating_point()])
        kept = torch.where(bad, saved, torch.cat(self._statistics))
        self._write(kept)
        # A list, because a single tensor would be read as a number, for which the host waits.
        torch._foreach_sub_(self._counters, [bad.long()] * len(self._counters))

    @torch.no_grad()
    def average(self, distributed: Distributed) -> None:
        """Set the statistics of every process to the mean over all processes."""
        if distributed.world_size > 1 and self._statistics:
            shared = torch.cat(self._statistics)
            self._write(distributed.all_reduce_sum(shared) / distributed.world_size)

    def _write(self, flat: Tensor) -> None:
        parts = flat.split([len(statistic) for statistic in self._statistics])
        torch._foreach_copy_(self._statistics, list(parts))


@torch.no_grad()
def recompute_statistics(
    model: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    check: Callable[[], None],
    held: Iterable[nn.Module] = (),
) -> None:
    """Replace all batch-norm statistics by their cumulative mean over batches, in fp32.

    The mean of several weights needs its own statistics, because activations are not linear in the
    weights (Izmailov et al. 2018, arXiv 1803.05407, section 3.2). Leaves the model in eval mode.
    `check` is called after each batch; it may raise an exception to stop. The statistics of `held`
    layers stay.
    """
    kept = {id(part) for layer in held for part in layer.modules()}
    parts = (part for part in model.eval().modules() if id(part) not in kept)
    norms = [part for part in parts if isinstance(part, NORM_LAYERS)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # for torch: a cumulative mean
        norm.train()
    for batch in batches if norms else ():
        model(images_to_device(batch.images, device))
        check()
    model.eval()


class _SharedNorm(torch.autograd.Function):
    """Batch norm with the statistics of all processes, in float32; nothing waits for the device.

    `torch.nn.SyncBatchNorm` works on GPUs only, and selects processes by boolean masks, whose
    result the host has to read in every layer.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the normalized ``[B, C, H, W]``, mean and variance ``[C]``, and their count."""
        variance, mean = torch.var_mean(x.float(), AXES, correction=0)
        count = torch.full_like(mean[:1], x.numel() / len(mean))
        gathered = all_gather(torch.cat((mean, variance, count)))  # [processes, 2 C + 1]
        means, variances, counts = gathered.split((len(mean), len(mean), 1), 1)
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        variance = ((variances + (means - mean).square()) * counts).sum(0) / total
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), total)
        ctx.mark_non_differentiable(mean, variance, total)
        normal = F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        return normal, mean, variance, total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, total = ctx.saved_tensors  # type: ignore[attr-defined] # see forward
        gradient = gradients[0].float()
        normal = (x.float() - mean[:, None, None]) * scale[:, None, None]
        of_bias, of_weight = gradient.sum(AXES), (gradient * normal).sum(AXES)
        shared = all_reduce_sum(torch.stack((of_bias, of_weight))) / total
        centred = gradient - shared[0, :, None, None] - normal * shared[1, :, None, None]
        of_x = centred * (weight * scale)[:, None, None]
        return of_x.to(x.dtype), of_weight, of_bias, None


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the images of all processes, on any device."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `[B, C, H, W]`; the statistics are in float32, as in `nn.BatchNorm2d`."""
        if not self.training:
            return super().forward(x)
        out, mean, variance, count = _SharedNorm.apply(x, self.weight, self.bias, self.eps)
        self._update_running_stats(mean, variance * count / (count - 1))
        normal: Tensor = out
        return normal

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


def convert_sync_batchnorm(model: Model) -> Model:
    """Replace batch norms by synchronized ones, which see the images of all processes.

    Names and values of parameters and buffers do not change.
    """
    for parent in list(model.modules()):
        for name, norm in parent.named_children():
            if type(norm) is nn.BatchNorm2d:
                setattr(parent, name, SyncBatchNorm2d.from_batch_norm(norm))
    return model
