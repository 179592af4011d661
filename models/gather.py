"""Gathers the inputs of the loss from the raw maps: all objectness logits, all positive cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from models.assigner import Assignment
from models.head import BOX_FIELDS

OBJECTNESS = BOX_FIELDS - 1


class Gathered(NamedTuple):
    """Gathered parts of the raw maps of all levels, float32."""

    objectness: Tensor
    """Objectness logits of all cells, ``[cells]``, ordered by level, image, anchor, row, column."""
    positives: Tensor
    """All logits of the positive cells, ``[n, 5 + classes]``."""


def gather(raw: Sequence[Tensor], assignment: Assignment) -> Gathered:
    """Gather from raw maps ``[B, A, h, w, 5 + classes]``; convert only these parts to float32."""
    columns = (column.split(assignment.counts) for column in assignment[:4])
    found = [_Gather.apply(level, *cells) for level, *cells in zip(raw, *columns, strict=True)]
    objectness, positives = zip(*found, strict=True)
    return Gathered(torch.cat([level.flatten() for level in objectness]), torch.cat(positives))


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
