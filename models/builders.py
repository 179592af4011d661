"""From the rows of a specification to layers, through a table of known kinds."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn

from models.head import DetectionHead
from models.layers import C3, SPP, SPPF, Bottleneck, Concat, Conv, Focus
from models.spec import LayerSpec, ModelSpec
from utils.errors import UserError

CHANNEL_MULTIPLE = 8
"""Scaled channels are rounded up to this, which tensor cores want."""


class Feature(NamedTuple):
    """What the next layer must know of an output."""

    channels: int
    stride: int
    """Pixels of the network input per cell."""


class Layer(NamedTuple):
    """A built layer and what it gives."""

    module: nn.Module
    output: Feature


class Context(NamedTuple):
    """What a builder must know besides its own arguments."""

    inputs: tuple[Feature, ...]
    repeats: int
    """With the depth multiple applied."""
    width_multiple: float

    def scaled(self, channels: int) -> int:
        """Channels with the width multiple applied."""
        return math.ceil(channels * self.width_multiple / CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE


class BuiltModel(NamedTuple):
    """Layers in order, and what is known of each."""

    layers: list[nn.Module]
    sources: list[tuple[int, ...]]
    """The absolute indices of its inputs; -1 is the image."""
    strides: list[int]
    """Pixels of the network input per cell of its output."""


def build_layers(spec: ModelSpec, channels: int) -> BuiltModel:
    """Build every layer of a specification.

    Args:
        spec: the model.
        channels: channels of the image.

    Raises:
        UserError: a row names an unknown kind, an impossible source, or arguments the kind refuses.
    """
    outputs = {-1: Feature(channels, stride=1)}
    layers, all_sources = [], []
    for index, row in enumerate(spec.layers):
        sources = tuple(index + source if source < 0 else source for source in row.sources)
        if not all(source in outputs for source in sources):
            raise UserError(
                f"model spec: layer {index} ({row.kind}) takes {row.sources}, not yet built."
            )
        context = Context(
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


def _build_layer(row: LayerSpec, index: int, context: Context, spec: ModelSpec) -> Layer:
    if row.kind not in BUILDERS:
        raise UserError(
            f"model spec: layer {index} is of unknown kind {row.kind}; "
            f"known are {', '.join(sorted(BUILDERS))}."
        )
    named = {"None": None, "nc": spec.classes, "anchors": spec.anchors}
    args = [named.get(arg, arg) if isinstance(arg, str) else arg for arg in row.args]
    try:
        return BUILDERS[row.kind](context, *args)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"model spec: layer {index} ({row.kind}) refuses arguments {list(row.args)}: {error}."
        ) from error


def _single(context: Context) -> Feature:
    """The only input of a layer that can be neither fed by several nor repeated."""
    if len(context.inputs) != 1:
        raise ValueError("one source expected")
    return context.inputs[0]


def _conv(
    context: Context, channels: int, kernel: int = 1, stride: int = 1, padding: int | None = None
) -> Layer:
    source, outputs = _single(context), context.scaled(channels)
    module = Conv(source.channels, outputs, kernel, stride, padding)
    return Layer(module, Feature(outputs, source.stride * stride))


def _focus(context: Context, channels: int, kernel: int = 1) -> Layer:
    source, outputs = _single(context), context.scaled(channels)
    return Layer(Focus(source.channels, outputs, kernel), Feature(outputs, source.stride * 2))


def _bottleneck(
    context: Context,
    channels: int,
    shortcut: bool = True,  # noqa: FBT002 - the position it has in a row of the YAML file
) -> Layer:
    source, outputs = _single(context), context.scaled(channels)
    widths = [source.channels] + [outputs] * (context.repeats - 1)
    blocks = [Bottleneck(width, outputs, shortcut=shortcut) for width in widths]
    module = blocks[0] if len(blocks) == 1 else nn.Sequential(*blocks)
    return Layer(module, Feature(outputs, source.stride))


def _c3(
    context: Context,
    channels: int,
    shortcut: bool = True,  # noqa: FBT002 - the position it has in a row of the YAML file
) -> Layer:
    source, outputs = _single(context), context.scaled(channels)
    module = C3(source.channels, outputs, context.repeats, shortcut=shortcut)
    return Layer(module, Feature(outputs, source.stride))


def _spp(context: Context, channels: int, kernels: Sequence[int] = (5, 9, 13)) -> Layer:
    source, outputs = _single(context), context.scaled(channels)
    return Layer(SPP(source.channels, outputs, kernels), Feature(outputs, source.stride))


def _sppf(context: Context, channels: int, kernel: int = 5) -> Layer:
    source, outputs = _single(context), context.scaled(channels)
    return Layer(SPPF(source.channels, outputs, kernel), Feature(outputs, source.stride))


def _upsample(context: Context, size: None, factor: int, mode: str) -> Layer:
    source = _single(context)
    module = nn.Upsample(size, factor, mode)
    return Layer(module, Feature(source.channels, source.stride // factor))


def _concat(context: Context, dimension: int = 1) -> Layer:
    strides = {source.stride for source in context.inputs}
    if len(strides) != 1:
        raise ValueError(f"inputs have strides {sorted(strides)}")
    channels = sum(source.channels for source in context.inputs)
    return Layer(Concat(dimension), Feature(channels, strides.pop()))


def _detect(context: Context, classes: int, anchors: Sequence[Sequence[float]]) -> Layer:
    channels = [source.channels for source in context.inputs]
    strides = [source.stride for source in context.inputs]
    module = DetectionHead(classes, anchors, channels, strides)
    # Nothing follows the head; the feature only completes the record.
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
