"""What the loss reads of a raw map: every cell's objectness, and all of the positive cells."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from models.assigner import Assignment
from models.head import BOX_FIELDS

OBJECTNESS = BOX_FIELDS - 1


class Gathered(NamedTuple):
    """Parts of a raw map, float32."""

    objectness: Tensor
    """Logits of all cells, ``[B, A, h, w]``."""
    positives: Tensor
    """All fields of the positive cells, ``[n, 5 + classes]``."""


def gather(raw: Tensor, assignment: Assignment) -> Gathered:
    """Read a raw map ``[B, A, h, w, 5 + classes]``; only what is read is widened to float32."""
    cells = (assignment.image, assignment.anchor, assignment.row, assignment.col)
    objectness, positives = _Gather.apply(raw, *cells)
    return Gathered(objectness, positives)


class _Gather(torch.autograd.Function):
    """As two index operations, but with one gradient map, laid out in memory as the raw map is.

    Each index operation would fill a map of its own; the two would be added, and then copied into
    the layout that the convolution wants: together about a twentieth of a training step on a CPU.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, raw: Tensor, *cells: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*cells)
        ctx.layout = raw.shape, raw.stride(), raw.dtype  # type: ignore[attr-defined] # torch's way
        return raw[..., OBJECTNESS].float(), raw[cells].float()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        objectness, positives = gradients
        shape, strides, dtype = ctx.layout  # type: ignore[attr-defined] # see forward
        raw = torch.empty_strided(shape, strides, dtype=dtype, device=objectness.device).zero_()
        raw[..., OBJECTNESS] = objectness.to(dtype)
        cells = ctx.saved_tensors  # type: ignore[attr-defined] # see forward
        raw.index_put_(cells, positives.to(dtype), accumulate=True)  # several may share a cell
        return raw, None, None, None, None
