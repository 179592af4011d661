"""Loads YOLOv5 files as YOLOv5 does: with `pickle`, real modules of torch, and classes of models.*.

The classes here know only the attributes in the file. Their forward passes follow the description
of YOLOv5's layers, so a file that lacks an attribute cannot be run.
"""

import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


class Module(nn.Module):
    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)


class Conv(Module):
    def forward(self, x: Tensor) -> Any:
        return self.act(self.bn(self.conv(x)))


class Bottleneck(Module):
    def forward(self, x: Tensor) -> Any:
        y: Tensor = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C3(Module):
    def forward(self, x: Tensor) -> Any:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class SPP(Module):
    def forward(self, x: Tensor) -> Any:
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))


class SPPF(Module):
    def forward(self, x: Tensor) -> Any:
        levels = [self.cv1(x)]
        for _ in range(3):
            levels.append(self.m(levels[-1]))
        return self.cv2(torch.cat(levels, 1))


class Focus(Module):
    def forward(self, x: Tensor) -> Any:
        phases = [x[..., row::2, col::2] for row, col in ((0, 0), (1, 0), (0, 1), (1, 1))]
        return self.conv(torch.cat(phases, 1))


class Concat(Module):
    def forward(self, x: list[Tensor]) -> Any:
        return torch.cat(x, self.d)


class Detect(Module):
    def forward(self, features: list[Tensor]) -> Any:
        assert len(self.grid) == len(self.anchor_grid) == self.nl
        found = []
        for level, feature in enumerate(features):
            raw = self.m[level](feature)
            batch, _, height, width = raw.shape
            scores = raw.view(batch, self.na, self.no, height, width).permute(0, 1, 3, 4, 2)
            scores = scores.sigmoid()
            rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            stride = self.stride[level].float()
            xy = (scores[..., :2] * 2 - 0.5 + torch.stack((cols, rows), 2)) * stride
            sizes = self.anchors[level].view(self.na, 1, 1, 2) * stride
            wh = (scores[..., 2:4] * 2) ** 2 * sizes
            found.append(torch.cat((xy, wh, scores[..., 4:]), 4).view(batch, -1, self.no))
        return torch.cat(found, 1)


class Model(Module):
    def forward(self, images: Tensor) -> Any:
        outputs: list[Any] = []
        x: Any = images
        for layer in self.model:
            if isinstance(layer.f, int):
                x = x if layer.f == -1 else outputs[layer.f]
            else:
                x = [x if source == -1 else outputs[source] for source in layer.f]
            x = layer(x)
            outputs.append(x if layer.i in self.save else None)
        return x


CLASSES = {
    **{f"models.common.{one.__name__}": one for one in (Conv, Bottleneck, C3, SPP, SPPF, Focus)},
    "models.common.Concat": Concat,
    "models.yolo.Detect": Detect,
    "models.yolo.Model": Model,
}


class Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = CLASSES.get(f"{module}.{name}")
        assert known or not module.startswith("models."), f"unknown class {module}.{name}"
        return known or super().find_class(module, name)


def load(path: Path) -> dict[str, Any]:
    """The content of a YOLOv5 file, with modules that can be run."""
    with_stubs = ModuleType("with_stubs")
    with_stubs.Unpickler = Unpickler  # type: ignore[attr-defined]
    content: dict[str, Any] = torch.load(path, weights_only=False, pickle_module=with_stubs)
    return content
