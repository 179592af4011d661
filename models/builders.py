"""Builds the layers of a model specification, with one builder function per layer kind."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn

from models.head import DetectionHead
from models.layers import C3, SPP, SPPF, Bottleneck, Concat, Conv, Focus
from models.spec import LayerSpec, ModelSpec
from utils.errors import UserError

CHANNEL_MULTIPLE = 8
"""Scaled channels are rounded up to a multiple of this, as tensor cores require."""


class Feature(NamedTuple):
    """Properties of a layer output that the next layers need."""

    channels: int
    stride: int
    """Pixels of the network input per cell."""


class Layer(NamedTuple):
    """A layer and its output."""

    module: nn.Module
    output: Feature


class BuildContext(NamedTuple):
    """Inputs and multiples for a builder, besides the arguments of the row."""

    inputs: tuple[Feature, ...]
    repeats: int
    """Number of repetitions, with the depth multiple applied."""
    width_multiple: float

    def scaled(self, channels: int) -> int:
        """Return the channels with the width multiple applied."""
        return math.ceil(channels * self.width_multiple / CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE


class BuiltModel(NamedTuple):
    """Layers in order, with inputs and stride of each."""

    layers: list[nn.Module]
    sources: list[tuple[int, ...]]
    """Absolute indices of each layer's inputs; -1 is the image."""
    strides: list[int]
    """Pixels of the network input per cell of each layer's output."""


def build_layers(spec: ModelSpec, channels: int) -> BuiltModel:
    """Build every layer of a specification.

    Args:
        spec: the model specification.
        channels: number of image channels.

    Raises:
        UserError: a row has an unknown kind, an invalid source or invalid arguments.
    """
    outputs = {-1: Feature(channels, stride=1)}
    layers, all_sources = [], []
    for index, row in enumerate(spec.layers):
        sources = tuple(index + source if source < 0 else source for source in row.sources)
        if not all(source in outputs for source in sources):
            raise UserError(
                f"model spec: layer {index} ({row.kind}) has sources {list(row.sources)}; "
                "use earlier layers only."
            )
        context = BuildContext(
            inputs=tuple(outputs[source] for source in sources),
            repeats=_scaled_repeats(row.repeats, spec.depth_multiple),
            width_multiple=spec.width_multiple,
        )
        layer = _build_layer(row, index, context, spec)
        layers.append(layer.module)
        all_sources.append(sources)
        outputs[index] = layer.output
    strides = [outputs[index].stride for index in range(len(layers))]
    return BuiltModel(layers, all_sources, strides)


def _scaled_repeats(repeats: int, depth_multiple: float) -> int:
    return max(round(repeats * depth_multiple), 1) if repeats > 1 else repeats


def _build_layer(row: LayerSpec, index: int, context: BuildContext, spec: ModelSpec) -> Layer:
    if row.kind not in BUILDERS:
        raise UserError(
            f"model spec: layer {index} has the unknown kind {row.kind}; "
            f"choose one of {', '.join(sorted(BUILDERS))}."
        )
    named = {"None": None, "nc": spec.classes, "anchors": spec.anchors}
    args = [named.get(arg, arg) if isinstance(arg, str) else arg for arg in row.args]
    try:
        return BUILDERS[row.kind](context, *args)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"model spec: layer {index} ({row.kind}) has invalid arguments {list(row.args)} "
            f"({error}); correct the row."
        ) from error


def _single(context: BuildContext) -> Feature:
    """Return the input of a layer that takes exactly one.

    Raises:
        ValueError: there are several.
    """
    if len(context.inputs) != 1:
        raise ValueError(f"expected one source, got {len(context.inputs)}")
    return context.inputs[0]


def _conv(
    context: BuildContext,
    channels: int,
    kernel: int = 1,
    stride: int = 1,
    padding: int | None = None,
) -> Layer:
    source, outputs = _single(context), context.scaled(channels)
    module = Conv(source.channels, outputs, kernel, stride, padding)
    return Layer(module, Feature(outputs, source.stride * stride))


def _focus(context: BuildContext, channels: int, kernel: int = 1) -> Layer:
    source, outputs = _single(context), context.scaled(channels)
    return Layer(Focus(source.channels, outputs, kernel), Feature(outputs, source.stride * 2))


def _bottleneck(
    context: BuildContext,
    channels: int,
    shortcut: bool = True,  # noqa: FBT002 - positional in the YAML file
) -> Layer:
    source, outputs = _single(context), context.scaled(channels)
    widths = [source.channels] + [outputs] * (context.repeats - 1)
    blocks = [Bottleneck(width, outputs, shortcut=shortcut) for width in widths]
    module = blocks[0] if len(blocks) == 1 else nn.Sequential(*blocks)
    return Layer(module, Feature(outputs, source.stride))


def _c3(
    context: BuildContext,
    channels: int,
    shortcut: bool = True,  # noqa: FBT002 - positional in the YAML file
) -> Layer:
    source, outputs = _single(context), context.scaled(channels)
    module = C3(source.channels, outputs, context.repeats, shortcut=shortcut)
    return Layer(module, Feature(outputs, source.stride))


def _spp(context: BuildContext, channels: int, kernels: Sequence[int] = (5, 9, 13)) -> Layer:
    source, outputs = _single(context), context.scaled(channels)
    return Layer(SPP(source.channels, outputs, kernels), Feature(outputs, source.stride))


def _sppf(context: BuildContext, channels: int, kernel: int = 5) -> Layer:
    source, outputs = _single(context), context.scaled(channels)
    return Layer(SPPF(source.channels, outputs, kernel), Feature(outputs, source.stride))


def _upsample(context: BuildContext, size: None, factor: int, mode: str) -> Layer:
    source = _single(context)
    module = nn.Upsample(size, factor, mode)
    return Layer(module, Feature(source.channels, source.stride // factor))


def _concat(context: BuildContext, dimension: int = 1) -> Layer:
    strides = {source.stride for source in context.inputs}
    if len(strides) != 1:
        raise ValueError(f"inputs have strides {sorted(strides)}")
    channels = sum(source.channels for source in context.inputs)
    return Layer(Concat(dimension), Feature(channels, strides.pop()))


def _detect(context: BuildContext, classes: int, anchors: Sequence[Sequence[float]]) -> Layer:
    channels = [source.channels for source in context.inputs]
    strides = [source.stride for source in context.inputs]
    module = DetectionHead(classes, anchors, channels, strides)
    # The head is the last layer; nothing uses its Feature.
    return Layer(module, Feature(channels[-1], strides[-1]))


BUILDERS: dict[str, Callable[..., Layer]] = {
    "Bottleneck": _bottleneck,
    "C3": _c3,
    "Concat": _concat,
    "Conv": _conv,
    "Detect": _detect,
    "Focus": _focus,
    "SPP": _spp,
    "SPPF": _sppf,
    "nn.Upsample": _upsample,
}
