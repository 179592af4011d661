"""Layers of a YOLOv5 backbone and neck; attribute names are those of upstream's state dict.

`inputs` and `outputs` are numbers of channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.03
"""YOLOv5's settings; pretrained weights need the same eps."""


class Activation(nn.SiLU):
    """SiLU; in place if gradients are disabled, since with gradients it would copy the input."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply SiLU to a tensor of any shape."""
        return F.silu(x, inplace=not torch.is_grad_enabled())


class Conv(nn.Module):
    """Convolution without bias, batch norm and SiLU.

    The padding on each side is half the kernel size by default, which keeps the size if the stride
    is 1. Kernel and stride are sides, or (height, width).
    """

    def __init__(  # noqa: PLR0913, PLR0917 - positional in the YAML file
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int] = 1,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | None = None,
        groups: int = 1,
        dilation: int = 1,
        act: bool = True,  # noqa: FBT002
    ) -> None:
        super().__init__()
        if padding is None:
            sides = kernel if isinstance(kernel, tuple) else (kernel, kernel)
            height, width = ((dilation * (side - 1) + 1) // 2 for side in sides)
            padding = height, width
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, padding, dilation, groups, bias=False
        )
        self.bn: nn.Module = nn.BatchNorm2d(
            outputs, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM
        )
        self.act: nn.Module = Activation() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, H / stride, W / stride]``."""
        activated: Tensor = self.act(self.bn(self.conv(x)))
        return activated

    def fold_batch_norm(self) -> None:
        """Fold the batch norm into the convolution, in place; for inference only."""
        if isinstance(self.bn, nn.BatchNorm2d | nn.SyncBatchNorm):
            self.conv = fuse_conv_bn_eval(self.conv, self.bn)
            self.bn = nn.Identity()


class Bottleneck(nn.Module):
    """A 1x1 and a 3x3 convolution, with an optional shortcut if the channels match.

    The expansion is the number of channels between the two, as a fraction of the outputs.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        shortcut: bool = True,
        groups: int = 1,
        expansion: float = 0.5,
    ) -> None:
        super().__init__()
        hidden = int(outputs * expansion)
        self.cv1 = Conv(inputs, hidden, 1)
        self.cv2 = Conv(hidden, outputs, 3, groups=groups)
        self.add = shortcut and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, H, W]``."""
        y: Tensor = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C3(nn.Module):
    """Cross-stage partial block: bottlenecks on one branch, concatenated with a bypass branch."""

    m: Any  # blocks of any kind

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
        self.cv2 = Conv(inputs, hidden)
        self.cv3 = Conv(2 * hidden, outputs)
        self.m = self.make_inner(hidden, repeats, shortcut, groups)

    def make_inner(self, hidden: int, repeats: int, shortcut: bool, groups: int) -> nn.Module:
        """Return the blocks of the first branch, of `hidden` channels."""
        return nn.Sequential(
            *(
                Bottleneck(hidden, hidden, shortcut=shortcut, groups=groups, expansion=1.0)
                for _ in range(repeats)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, H, W]``."""
        merged: Tensor = self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))
        return merged


class SPP(nn.Module):
    """Spatial pyramid pooling of YOLOv5 v5.0: parallel max pools of several kernel sizes."""

    def __init__(self, inputs: int, outputs: int, kernels: Sequence[int] = (5, 9, 13)) -> None:
        super().__init__()
        hidden = inputs // 2
        self.cv1 = Conv(inputs, hidden)
        self.cv2 = Conv(hidden * (len(kernels) + 1), outputs)
        self.m = nn.ModuleList(nn.MaxPool2d(kernel, 1, kernel // 2) for kernel in kernels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, H, W]``."""
        x = self.cv1(x)
        merged: Tensor = self.cv2(torch.cat((x, *(pool(x) for pool in self.m)), 1))
        return merged


class SPPF(nn.Module):
    """Fast SPP: one max pool of size k, applied three times; equals SPP with k, 2k-1, 3k-2."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 5) -> None:
        super().__init__()
        hidden = inputs // 2
        self.cv1 = Conv(inputs, hidden)
        self.cv2 = Conv(hidden * 4, outputs)
        self.m = nn.MaxPool2d(kernel, 1, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, H, W]``."""
        x = self.cv1(x)
        once = self.m(x)
        twice = self.m(once)
        merged: Tensor = self.cv2(torch.cat((x, once, twice, self.m(twice)), 1))
        return merged


class Focus(nn.Module):
    """First layer of YOLOv5 v5.0: moves each 2x2 block of pixels to channels, then convolves."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = Conv(inputs * 4, outputs, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, H / 2, W / 2]``."""
        # Pretrained weights expect channels ordered by column, row, input (last varies fastest).
        phases = [x[..., row::2, col::2] for col in (0, 1) for row in (0, 1)]
        mixed: Tensor = self.conv(torch.cat(phases, 1))
        return mixed


class Concat(nn.Module):
    """Concatenates its inputs along a dimension."""

    def __init__(self, dimension: int = 1) -> None:
        super().__init__()
        self.dimension = dimension

    def forward(self, *inputs: Tensor) -> Tensor:
        """Concatenate inputs that are equal in all other dimensions."""
        return torch.cat(inputs, self.dimension)
