from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from models.builders import KINDS, build_layers
from models.layers import C3, Activation, Conv
from models.spec import ModelSpec
from utils.errors import UserError


def spec_of(*rows: list[Any], depth: float = 1.0, width: float = 1.0) -> ModelSpec:
    return ModelSpec.from_dict(
        {
            "nc": 2,
            "depth_multiple": depth,
            "width_multiple": width,
            "anchors": [[10, 13]],
            "backbone": list(rows),
            "head": [[-1, 1, "Detect", ["nc", "anchors"]]],
        }
    )


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(64, 1.0, 64), (64, 0.25, 16), (100, 0.25, 32), (8, 0.1, 8)],  # rounded up to multiples of 8
)
def test_channels_follow_the_width_multiple(channels: int, width: float, expected: int) -> None:
    layers = build_layers(spec_of([-1, 1, "Conv", [channels]], width=width), 3).layers
    assert isinstance(layers[0], Conv)
    assert layers[0].conv.out_channels == expected


@pytest.mark.parametrize(
    ("repeats", "depth", "expected"), [(1, 0.33, 1), (3, 0.33, 1), (9, 0.33, 3), (9, 1.33, 12)]
)
def test_repeats_follow_the_depth_multiple(repeats: int, depth: float, expected: int) -> None:
    layers = build_layers(spec_of([-1, repeats, "C3", [8]], depth=depth), 3).layers
    assert isinstance(layers[0], C3)
    assert len(layers[0].m) == expected


def test_repeated_bottlenecks_are_sequential() -> None:
    layers = build_layers(spec_of([-1, 2, "Bottleneck", [8]], [-1, 1, "Bottleneck", [8]]), 3).layers
    assert isinstance(layers[0], nn.Sequential)
    assert len(layers[0]) == 2
    assert not isinstance(layers[1], nn.Sequential)


def test_strides_follow_the_layers() -> None:
    rows: list[list[Any]] = [
        [-1, 1, "Focus", [8, 3]],  # 2
        [-1, 1, "Conv", [8, 3, 2]],  # 4
        [-1, 1, "SPP", [8, [5, 9, 13]]],
        [-1, 1, "SPPF", [8, 5]],
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],  # 2
        [[-1, 0], 1, "Concat", [1]],
    ]
    built = build_layers(spec_of(*rows), 3)
    head = built.layers[-1]
    assert head.strides == (2,)
    assert built.sources == [(-1,), (0,), (1,), (2,), (3,), (4, 0), (5,)]
    assert built.strides == [2, 4, 4, 4, 2, 2, 2]
    assert sum(parameter.shape[1] for parameter in head.parameters() if parameter.ndim > 1) == 16


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [[-1, 1, "GhostsConv", [8]]],
            "layer 0 has the unknown kind GhostsConv; choose one of .*Conv",
        ),
        ([[5, 1, "Conv", [8]]], r"layer 0 \(Conv\) has sources \[5\]; use earlier layers only"),
        ([[-1, 1, "Conv", [8, 3, 2, 1, 1, 1, True, 1]]], r"layer 0 \(Conv\) has invalid arguments"),
        ([[-1, 1, "GhostBottleneck", [8, 3, 1]]], "the channels must stay the same"),
        ([[-1, 1, "Conv", []]], r"layer 0 \(Conv\) has invalid arguments"),
        ([[-1, 1, "nn.Upsample", ["None", 2]]], r"layer 0 \(nn.Upsample\) has invalid arguments"),
        ([[-1, 1, "Conv", ["wide"]]], r"layer 0 \(Conv\) has invalid arguments \['wide'\]"),
        ([[-1, 1, "Conv", [8]], [[-1, -2], 1, "Conv", [8]]], "expected one source, got 2"),
        ([[-1, 1, "Conv", [8, 3, 2]], [[-1, -2], 1, "Concat", [1]]], r"strides \[1, 2\]"),
    ],
)
def test_invalid_rows_are_refused(rows: list[list[Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_layers(spec_of(*rows), 3)


def test_all_layer_kinds_of_published_models_are_known() -> None:
    assert {"Conv", "C3", "SPPF", "nn.Upsample", "Concat", "Detect", "SPP", "Focus"} <= {*KINDS}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("nn.LeakyReLU(0.1)", nn.LeakyReLU),
        ("nn.LeakyReLU(negative_slope=0.1)", nn.LeakyReLU),
        ("torch.nn.Hardswish()", nn.Hardswish),
        ("ReLU()", nn.ReLU),
        ("nn.SiLU()", nn.SiLU),
    ],
)
def test_activation_replaces_silu_in_every_convolution(text: str, kind: type) -> None:
    rows: list[list[Any]] = [
        [-1, 1, "Conv", [8]],
        [-1, 1, "C3Ghost", [16]],
        [-1, 1, "BottleneckCSP", [8]],
    ]
    built = build_layers(replace(spec_of(*rows), activation=text), 3)
    convs = [m for layer in built.layers for m in layer.modules() if isinstance(m, Conv)]
    linear = [conv for conv in convs if isinstance(conv.act, nn.Identity)]
    assert len(linear) == 2  # the second half of a ghost bottleneck
    assert {type(conv.act) for conv in convs if conv not in linear} <= {kind, Activation}
    assert isinstance(convs[0].act, kind)
    if kind is nn.LeakyReLU:
        assert convs[0].act.negative_slope == 0.1
    assert isinstance(built.layers[2].act, nn.SiLU)  # of both branches, not of a convolution


@pytest.mark.parametrize(
    "text", ["nn.PReLU()", "nn.ReLU", "__import__('os').getpid()", "nn.ReLU(x)", "nn.Tanh(1, 2)"]
)
def test_unknown_activation_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"is unknown; write one like nn\.LeakyReLU"):
        build_layers(replace(spec_of([-1, 1, "Conv", [8]]), activation=text), 3)


@pytest.mark.parametrize(
    ("row", "stride"),
    [
        (["DWConv", [8, 3, 2]], 2),
        (["GhostConv", [8, 3, 2]], 2),
        (["GhostBottleneck", [8, 3, 2]], 2),
        (["CrossConv", [8, 3, 2]], 2),
        (["Focus", [8, 3, 2]], 4),
        (["nn.MaxPool2d", [2, 2, 0]], 2),
        (["nn.MaxPool2d", [3, 1, 1]], 1),
        (["BottleneckCSP", [8]], 1),
        (["C3TR", [8]], 1),
        (["C3SPP", [8, [3, 5]]], 1),
        (["C3x", [8]], 1),
    ],
)
def test_strides_are_those_of_the_maps(row: list[Any], stride: int) -> None:
    layer, *_ = (built := build_layers(spec_of([-1, 1, *row]), 3)).layers
    found = layer.eval()(torch.zeros(2, 3, 32, 32))
    assert found.shape[2:] == (32 // stride, 32 // stride)
    assert built.strides[0] == stride
