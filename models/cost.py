"""What a model costs to compute."""

from collections.abc import Iterator

from torch import nn

from models.detector import Detector
from models.head import DetectionHead
from models.layers import Conv

ELEMENTWISE_FLOPS = 4
"""Batch norm subtracts, divides, multiplies, adds; SiLU takes exp, adds, divides, multiplies."""


def gflops(model: Detector, size: int = 640) -> float:
    """Billions of floating-point operations for one square image, a multiply-add being two.

    Convolutions, batch norms and activations of an unfused model, as upstream prints them.

    Args:
        model: any detector.
        size: side of the image, pixels; a multiple of the model's largest stride.
    """
    parts = _parts_and_strides(model)
    return sum(_flops_per_cell(part) * (size // stride) ** 2 for part, stride in parts) / 1e9


def _parts_and_strides(model: Detector) -> Iterator[tuple[nn.Module, int]]:
    """Parts that compute at one resolution, and its stride: layers, and the levels of the head."""
    for layer, stride in zip(model.model, model.layer_strides, strict=True):
        if isinstance(layer, DetectionHead):
            yield from zip(layer.m, layer.strides, strict=True)
        else:
            yield layer, stride


def _flops_per_cell(part: nn.Module) -> int:
    """Of the output: all convolutions of a part have maps of its size."""
    flops = 0
    for module in part.modules():
        if isinstance(module, nn.Conv2d):
            flops += 2 * module.weight.numel()
        elif isinstance(module, Conv):  # its batch norm and its activation
            flops += 2 * ELEMENTWISE_FLOPS * module.conv.out_channels
    return flops
