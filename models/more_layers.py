"""Layers of other published model files; attribute names are those of upstream's state dict.

`inputs` and `outputs` are numbers of channels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers import BATCH_NORM_EPS, BATCH_NORM_MOMENTUM, C3, SPP, Bottleneck, Conv

HEADS = 4
"""Attention heads of C3TR."""


class DWConv(Conv):
    """Convolution with as many groups as inputs and outputs allow: depthwise if they are equal."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        act: bool = True,  # noqa: FBT002 - positional in the YAML file, as those below
    ) -> None:
        groups = math.gcd(inputs, outputs)
        super().__init__(inputs, outputs, kernel, stride, None, groups, dilation, act)


class GhostConv(nn.Module):
    """Half of the outputs by a convolution, the others from them by a depthwise one.

    Han et al., "GhostNet", 2020.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,  # noqa: FBT002
    ) -> None:
        super().__init__()
        hidden = outputs // 2
        self.cv1 = Conv(inputs, hidden, kernel, stride, None, groups, act=act)
        self.cv2 = Conv(hidden, hidden, 5, 1, None, hidden, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, H / stride, W / stride]``."""
        y = self.cv1(x)
        return torch.cat((y, self.cv2(y)), 1)


class GhostBottleneck(nn.Module):
    """Two ghost convolutions, with a depthwise one between them if the stride is 2."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        hidden, halves = outputs // 2, stride == 2  # noqa: PLR2004
        if not halves and inputs != outputs:
            raise ValueError("with a stride other than 2, the channels must stay the same")
        self.conv = nn.Sequential(
            GhostConv(inputs, hidden),
            DWConv(hidden, hidden, kernel, stride, act=False) if halves else nn.Identity(),
            GhostConv(hidden, outputs, act=False),
        )
        self.shortcut = (
            nn.Sequential(
                DWConv(inputs, inputs, kernel, stride, act=False),
                Conv(inputs, outputs, act=False),
            )
            if halves
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, H / stride, W / stride]``."""
        total: Tensor = self.conv(x) + self.shortcut(x)
        return total


class CrossConv(nn.Module):
    """A horizontal and a vertical convolution instead of a square one."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        expansion: float = 1.0,
        shortcut: bool = False,  # noqa: FBT002
    ) -> None:
        super().__init__()
        hidden = int(outputs * expansion)
        self.cv1 = Conv(inputs, hidden, (1, kernel), (1, stride))
        self.cv2 = Conv(hidden, outputs, (kernel, 1), (stride, 1), None, groups)
        self.add = shortcut and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, H / stride, W / stride]``."""
        y: Tensor = self.cv2(self.cv1(x))
        return x + y if self.add else y


class BottleneckCSP(nn.Module):
    """The block of YOLOv5 before C3, with plain convolutions and one batch norm for both branches.

    Wang et al., "CSPNet", 2019.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        repeats: int = 1,
        shortcut: bool = True,  # noqa: FBT002
        groups: int = 1,
        expansion: float = 0.5,
    ) -> None:
        super().__init__()
        hidden = int(outputs * expansion)
        self.cv1 = Conv(inputs, hidden)
        self.cv2 = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.cv3 = nn.Conv2d(hidden, hidden, 1, bias=False)
        self.cv4 = Conv(2 * hidden, outputs)
        self.bn = nn.BatchNorm2d(2 * hidden, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)
        self.act = nn.SiLU()
        self.m = nn.Sequential(
            *(
                Bottleneck(hidden, hidden, shortcut=shortcut, groups=groups, expansion=1.0)
                for _ in range(repeats)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, H, W]``."""
        branches = torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), 1)
        merged: Tensor = self.cv4(self.act(self.bn(branches)))
        return merged


class TransformerLayer(nn.Module):
    """Multi-head attention and two linear layers, without layer norm and biases."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.q = nn.Linear(channels, channels, bias=False)
        self.k = nn.Linear(channels, channels, bias=False)
        self.v = nn.Linear(channels, channels, bias=False)
        self.ma = nn.MultiheadAttention(channels, heads)
        self.fc1 = nn.Linear(channels, channels, bias=False)
        self.fc2 = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[H W, B, channels]`` to the same shape."""
        x = self.ma(self.q(x), self.k(x), self.v(x), need_weights=False)[0] + x
        refined: Tensor = self.fc2(self.fc1(x)) + x
        return refined


class TransformerBlock(nn.Module):
    """Transformer layers over the cells of a map, with a learned linear position embedding.

    Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020.
    """

    def __init__(self, inputs: int, outputs: int, heads: int, repeats: int) -> None:
        super().__init__()
        self.conv = Conv(inputs, outputs) if inputs != outputs else None
        self.linear = nn.Linear(outputs, outputs)
        self.tr = nn.Sequential(*(TransformerLayer(outputs, heads) for _ in range(repeats)))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, H, W]``."""
        if self.conv is not None:
            x = self.conv(x)
        cells = x.flatten(2).permute(2, 0, 1)  # [H W, B, outputs]
        mixed: Tensor = self.tr(cells + self.linear(cells))
        return mixed.permute(1, 2, 0).reshape(x.shape)


class C3x(C3):
    """C3 with cross convolutions."""

    def make_inner(self, hidden: int, repeats: int, shortcut: bool, groups: int) -> nn.Module:
        """See `C3.make_inner`."""
        blocks = (CrossConv(hidden, hidden, 3, 1, groups, 1.0, shortcut) for _ in range(repeats))
        return nn.Sequential(*blocks)


class C3Ghost(C3):
    """C3 with ghost bottlenecks, which always have a shortcut."""

    def make_inner(self, hidden: int, repeats: int, *_: object) -> nn.Module:
        """See `C3.make_inner`."""
        return nn.Sequential(*(GhostBottleneck(hidden, hidden) for _ in range(repeats)))


class C3TR(C3):
    """C3 with a transformer block."""

    def make_inner(self, hidden: int, repeats: int, *_: object) -> nn.Module:
        """See `C3.make_inner`."""
        return TransformerBlock(hidden, hidden, HEADS, repeats)


class C3SPP(C3):
    """C3 with spatial pyramid pooling."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernels: Sequence[int] = (5, 9, 13),
        expansion: float = 0.5,
    ) -> None:
        super().__init__(inputs, outputs, expansion=expansion)
        hidden = self.cv1.conv.out_channels
        self.m = SPP(hidden, hidden, kernels)
