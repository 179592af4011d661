"""Layers of other published models, against the formulas in their definition."""

from math import gcd

import pytest
import torch
from torch import Tensor, nn

from models.detector import Detector, fuse
from models.layers import Conv
from models.more_layers import (
    C3TR,
    BottleneckCSP,
    C3Ghost,
    C3x,
    CrossConv,
    DWConv,
    GhostBottleneck,
    GhostConv,
    TransformerBlock,
    TransformerLayer,
)
from models.spec import ModelSpec


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def names(module: nn.Module) -> set[str]:
    """Names of the weights in a state dict, without those of batch norms."""
    norms = [name for name, part in module.named_modules() if isinstance(part, nn.BatchNorm2d)]
    found = {name for name, _ in module.named_parameters()}
    return {name for name in found if name.rpartition(".")[0] not in norms}


def test_depthwise_groups() -> None:
    for inputs, outputs in ((8, 8), (8, 12), (3, 8)):
        assert DWConv(inputs, outputs, 3).conv.groups == gcd(inputs, outputs)


def test_dilated_and_rectangular_kernels_keep_the_size() -> None:
    x = torch.zeros(1, 4, 9, 11)
    assert Conv(4, 6, 3, dilation=2).eval()(x).shape == (1, 6, 9, 11)
    assert Conv(4, 6, (1, 5)).eval()(x).shape == (1, 6, 9, 11)


def test_ghost_convolution_concatenates_and_bottleneck_adds() -> None:
    x = torch.randn(2, 8, 6, 6)
    ghost = GhostConv(8, 12, 3, 2).eval()
    half = ghost.cv1(x)
    assert torch.equal(ghost(x), torch.cat((half, ghost.cv2(half)), 1))
    assert (ghost.cv2.conv.groups, ghost.cv2.conv.kernel_size) == (6, (5, 5))
    for stride in (1, 2):
        block = GhostBottleneck(8, 8, 3, stride).eval()
        assert torch.equal(block(x), block.conv(x) + block.shortcut(x))
    assert names(C3Ghost(8, 8)) >= {"m.0.conv.0.cv1.conv.weight", "m.0.conv.2.cv2.conv.weight"}
    assert "shortcut.1.conv.weight" in names(block)


def test_bottleneck_csp() -> None:
    x = torch.randn(2, 8, 6, 6)
    block = BottleneckCSP(8, 16, 2).eval()
    both = torch.cat((block.cv3(block.m(block.cv1(x))), block.cv2(x)), 1)
    assert torch.equal(block(x), block.cv4(nn.functional.silu(block.bn(both))))
    assert {"cv2.weight", "cv3.weight", "cv4.conv.weight", "m.1.cv2.conv.weight"} <= names(block)


def test_cross_convolution_adds_only_with_a_shortcut() -> None:
    x = torch.randn(2, 8, 6, 6)
    for shortcut in (False, True):
        block = CrossConv(8, 8, 3, 1, 1, 1.0, shortcut).eval()
        assert torch.equal(block(x), block.cv2(block.cv1(x)) + (x if shortcut else 0))
    assert block.cv1.conv.kernel_size == (1, 3)
    assert block.cv2.conv.kernel_size == (3, 1)
    assert names(C3x(8, 8)) >= {"m.0.cv1.conv.weight", "m.0.cv2.conv.weight"}


def attention(layer: nn.MultiheadAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of four heads, for ``[cells, channels]``."""
    assert layer.in_proj_bias is not None
    weights, biases = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
    q, k, v = (x @ w.T + b for x, w, b in zip((q, k, v), weights, biases, strict=True))
    heads = []
    for a, b, c in zip(q.chunk(4, 1), k.chunk(4, 1), v.chunk(4, 1), strict=True):
        heads.append(torch.softmax(a @ b.T / a.shape[1] ** 0.5, 1) @ c)
    return layer.out_proj(torch.cat(heads, 1))


def test_transformer_block() -> None:
    block = TransformerBlock(8, 8, 4, 2).eval()
    image = torch.randn(1, 8, 3, 2)
    x = image[0].reshape(8, 6).T  # [cells, channels]
    x = x + block.linear(x)
    for layer in block.tr:
        assert isinstance(layer, TransformerLayer)
        x = attention(layer.ma, layer.q(x), layer.k(x), layer.v(x)) + x
        x = layer.fc2(layer.fc1(x)) + x
    torch.testing.assert_close(block(image), x.T.reshape(1, 8, 3, 2))
    expected = {"linear.weight", "linear.bias", "tr.0.ma.in_proj_weight", "tr.1.fc2.weight"}
    assert {f"m.{name}" for name in expected} <= names(C3TR(16, 16, 2))


def test_fused_model_of_all_layers_equals_the_model() -> None:
    rows = [
        *([-1, 1, "Conv", [16, 3, 2]], [-1, 1, "GhostConv", [16, 3, 2]], [-1, 1, "C3Ghost", [16]]),
        *([-1, 1, "DWConv", [16, 3, 2]], [-1, 2, "BottleneckCSP", [16]], [-1, 1, "C3TR", [16]]),
        *([-1, 1, "C3x", [16]], [-1, 1, "CrossConv", [16]], [-1, 1, "C3SPP", [16, [3, 5]]]),
    ]
    plain = {"nc": 2, "depth_multiple": 1, "width_multiple": 1, "anchors": [[8, 8]]}
    head = [[-1, 1, "Detect", ["nc", "anchors"]]]
    model = Detector(ModelSpec.from_dict({**plain, "backbone": rows, "head": head}))
    images = torch.rand(2, 3, 64, 64)
    model(images)[0].square().mean().backward()  # also fills the statistics
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(fuse(model)(images)[0], model(images)[0], rtol=1e-4, atol=1e-4)
