"""Builds the layers of a model specification."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

from models.head import DetectionHead
from models.layers import C3, SPP, SPPF, Activation, Bottleneck, Concat, Conv, Focus
from models.more_layers import (
    C3SPP,
    C3TR,
    BottleneckCSP,
    C3Ghost,
    C3x,
    CrossConv,
    DWConv,
    GhostBottleneck,
    GhostConv,
)
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


class BuiltModel(NamedTuple):
    """Layers in order, with inputs and stride of each."""

    layers: list[nn.Module]
    sources: list[tuple[int, ...]]
    """Absolute indices of each layer's inputs; -1 is the image."""
    strides: list[int]
    """Pixels of the network input per cell of each layer's output."""


def build_layers(spec: ModelSpec, channels: int) -> BuiltModel:
    """Build every layer of a specification, for images with this number of channels.

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
        if row.kind not in KINDS:
            raise UserError(
                f"model spec: layer {index} has the unknown kind {row.kind}; "
                f"choose one of {', '.join(KINDS)}."
            )
        try:
            layer = _build_layer(row, [outputs[source] for source in sources], spec)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"model spec: layer {index} ({row.kind}) has invalid arguments {list(row.args)} "
                f"({error}); correct the row."
            ) from error
        layers.append(layer.module)
        all_sources.append(sources)
        outputs[index] = layer.output
    if spec.activation:
        for module in layers:
            _replace_activations(module, spec.activation)
    strides = [outputs[index].stride for index in range(len(layers))]
    return BuiltModel(layers, all_sources, strides)


def _build_layer(row: LayerSpec, inputs: Sequence[Feature], spec: ModelSpec) -> Layer:
    """Build one layer.

    Raises:
        TypeError, ValueError: its arguments or inputs are invalid.
    """
    named = {"None": None, "nc": spec.classes, "anchors": spec.anchors}
    args: list[Any] = [  # the constructors check the types
        named.get(arg, arg) if isinstance(arg, str) else arg for arg in row.args
    ]
    channels, strides = [source.channels for source in inputs], [source.stride for source in inputs]
    if row.kind == "Detect":
        classes, anchors = args
        # The head is the last layer; nothing uses its Feature.
        return Layer(DetectionHead(classes, anchors, channels, strides), inputs[-1])
    if row.kind == "Concat":
        if len(set(strides)) != 1:
            raise ValueError(f"inputs have strides {sorted(set(strides))}")
        return Layer(Concat(*args), Feature(sum(channels), strides[0]))
    if len(inputs) != 1:
        raise ValueError(f"expected one source, got {len(inputs)}")
    if row.kind == "nn.Upsample":
        size, factor, mode = args
        return Layer(nn.Upsample(size, factor, mode), Feature(channels[0], strides[0] // factor))
    if row.kind in RESHAPING:
        reshaping = RESHAPING[row.kind](*args)
        return Layer(reshaping, Feature(channels[0], strides[0] * _stride(reshaping)))
    width, *others = args
    outputs = math.ceil(width * spec.width_multiple / CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE
    if row.kind in REPEATED:
        others = [_scaled_repeats(row.repeats, spec.depth_multiple), *others]
    module = CONVOLUTIONS[row.kind](channels[0], outputs, *others)
    return Layer(module, Feature(outputs, strides[0] * _stride(module)))


def _scaled_repeats(repeats: int, depth_multiple: float) -> int:
    return max(round(repeats * depth_multiple), 1) if repeats > 1 else repeats


def _stride(module: nn.Module) -> int:
    """Return the factor by which a layer reduces its input."""
    if isinstance(module, nn.MaxPool2d):
        return module.stride if isinstance(module.stride, int) else max(module.stride)
    if isinstance(module, GhostBottleneck):
        return 1 if isinstance(module.shortcut, nn.Identity) else 2
    if isinstance(module, CrossConv | GhostConv):
        return max(*module.cv1.conv.stride, *module.cv2.conv.stride)
    if isinstance(module, Focus):
        return 2 * module.conv.conv.stride[0]
    return module.conv.stride[0] if isinstance(module, Conv) else 1


def _replace_activations(layer: nn.Module, text: str) -> None:
    """Replace SiLU in every `Conv` of a layer by the activation in a model file."""
    found = re.fullmatch(r"(?:torch\.)?(?:nn\.)?(\w+)\(([^()]*)\)", text.replace(" ", ""))
    try:
        kind, numbers = ACTIVATIONS[found[1]], found[2].split(",")  # type: ignore[index]
        arguments = [float(number.rpartition("=")[2]) for number in numbers if number]
        kind(*arguments)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"model spec: activation {text} is unknown; write one like nn.LeakyReLU(0.1), with "
            f"numbers only, and one of the names {', '.join(ACTIVATIONS)}."
        ) from error
    for module in layer.modules():
        if isinstance(module, Conv) and isinstance(module.act, Activation):
            module.act = kind(*arguments)


def _bottlenecks(
    inputs: int,
    outputs: int,
    repeats: int,
    shortcut: bool = True,  # noqa: FBT002 - positional in the YAML file
) -> nn.Module:
    widths = [inputs] + [outputs] * (repeats - 1)
    blocks = [Bottleneck(width, outputs, shortcut=shortcut) for width in widths]
    return blocks[0] if len(blocks) == 1 else nn.Sequential(*blocks)


ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    **{"SiLU": Activation, "ReLU": nn.ReLU, "ReLU6": nn.ReLU6, "LeakyReLU": nn.LeakyReLU},
    **{"Hardswish": nn.Hardswish, "Mish": nn.Mish, "GELU": nn.GELU, "ELU": nn.ELU},
    **{"Identity": nn.Identity, "Sigmoid": nn.Sigmoid, "Tanh": nn.Tanh},
}
"""What `activation:` in a model file may name; none has parameters to learn."""
RESHAPING: dict[str, Callable[..., nn.Module]] = {
    "nn.MaxPool2d": nn.MaxPool2d,
    "nn.ZeroPad2d": nn.ZeroPad2d,
}
"""Layers without channels of their own."""
REPEATED: dict[str, Callable[..., nn.Module]] = {
    **{"Bottleneck": _bottlenecks, "C3": C3, "BottleneckCSP": BottleneckCSP},
    **{"C3TR": C3TR, "C3Ghost": C3Ghost, "C3x": C3x},
}
"""Layers with a number of repetitions, which follows the channels."""
CONVOLUTIONS: dict[str, Callable[..., nn.Module]] = {
    **REPEATED,
    "Conv": Conv,
    "Focus": Focus,
    "SPP": SPP,
    "SPPF": SPPF,
    **{"DWConv": DWConv, "GhostConv": GhostConv, "GhostBottleneck": GhostBottleneck},
    **{"CrossConv": CrossConv, "C3SPP": C3SPP},
}
"""Layers with one input; their arguments are input channels, output channels, and those of the
row after its first one."""
KINDS = sorted((*CONVOLUTIONS, *RESHAPING, "Concat", "Detect", "nn.Upsample"))
