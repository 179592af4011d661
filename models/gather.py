"""Gathers the inputs of the loss from a raw map: all objectness logits, all positive cells."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from models.assigner import Assignment
from models.head import BOX_FIELDS

OBJECTNESS = BOX_FIELDS - 1


class Gathered(NamedTuple):
    """Gathered parts of a raw map, float32."""

    objectness: Tensor
    """Objectness logits of all cells, ``[B, A, h, w]``."""
    positives: Tensor
    """All logits of the positive cells, ``[n, 5 + classes]``."""


def gather(raw: Tensor, assignment: Assignment) -> Gathered:
    """Gather from a raw map ``[B, A, h, w, 5 + classes]``; convert only these parts to float32."""
    cells = (assignment.image, assignment.anchor, assignment.row, assignment.col)
    objectness, positives = _Gather.apply(raw, *cells)
    return Gathered(objectness, positives)


class _Gather(torch.autograd.Function):
    """Two index operations that share one gradient map, in the memory layout of the raw map.

    Separate index operations would each fill a map, add the two, and copy the sum to the layout
    that the convolution needs. On a CPU this takes about a twentieth of a training step.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, raw: Tensor, *cells: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*cells)
        ctx.layout = raw.shape, raw.stride(), raw.dtype  # type: ignore[attr-defined] # as torch does
        return raw[..., OBJECTNESS].float(), raw[cells].float()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        objectness, positives = gradients
        shape, strides, dtype = ctx.layout  # type: ignore[attr-defined] # see forward
        raw = torch.empty_strided(shape, strides, dtype=dtype, device=objectness.device).zero_()
        raw[..., OBJECTNESS] = objectness.to(dtype)
        cells = ctx.saved_tensors  # type: ignore[attr-defined] # see forward
        # A cell may occur several times.
        raw.index_put_(cells, positives.to(dtype), accumulate=True)
        return raw, None, None, None, None
