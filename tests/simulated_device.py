"""A device that computes on the CPU and records every read by the host, on which a GPU would wait.

On plain CPU tensors such reads reach no hook. The tensors of this device report another device,
`meta`, so all operations on them, also those inside of torch, pass through `SimulatedDevice`.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.paths import ROOT

DEVICE = torch.device("meta")
aten = torch.ops.aten
READS = {
    aten._local_scalar_dense,  # item, bool, float, int
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_consecutive,
    aten.bincount,
    aten.repeat_interleave,
}
"""Operations whose result has a size, or is a number, that the host must know."""
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index}


class DeviceTensor(Tensor):
    """A tensor of the simulated device; `content` has its values."""

    content: Tensor

    @staticmethod
    def __new__(cls: type[DeviceTensor], content: Tensor) -> DeviceTensor:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            content.size(),
            strides=content.stride(),
            storage_offset=content.storage_offset(),
            dtype=content.dtype,
            device=DEVICE,
            requires_grad=content.requires_grad,
        )

    def __init__(self, content: Tensor) -> None:
        self.content = content

    def __repr__(self) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.content})"

    @classmethod
    def __torch_dispatch__(cls, *_: Any, **__: Any) -> Any:
        raise AssertionError("a tensor of the device is used outside of SimulatedDevice")


class SimulatedDevice(TorchDispatchMode):
    """Context in which `DEVICE` is a device with values; `reads` names what the host waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation on the contents."""
        options = dict(kwargs or {})
        given = tree_leaves((args, options))
        on_device = any(isinstance(one, DeviceTensor) for one in given)
        target = options.get("device")
        if target is not None:
            options["device"] = torch.device("cpu")
        output = function(*tree_map(_content, args), **tree_map(_content, options))
        if target is not None and torch.device(target) != DEVICE:
            if on_device:
                self._record(function)
                return output.clone()
            return output
        if target is None and not on_device:
            return output
        copies = function.overloadpacket is aten._to_copy and not on_device
        if copies and not options.get("non_blocking", False):
            self._record(function)  # to the device; the host waits for it
        if on_device and _is_read(function, args):
            self._record(function)
        return tree_map(lambda one: _same_or_new(one, given), output)

    def _record(self, function: Any) -> None:
        frames = traceback.extract_stack()
        own = [
            f
            for f in frames
            if Path(f.filename).is_relative_to(ROOT / "utils")
            or Path(f.filename).is_relative_to(ROOT / "models")
        ]
        where = f"{Path(own[-1].filename).name}:{own[-1].name}" if own else "torch"
        self.reads.append(f"{function.overloadpacket.__name__} in {where}")


def _content(one: Any) -> Any:
    return one.content if isinstance(one, DeviceTensor) else one


def _same_or_new(one: Any, given: Sequence[Any]) -> Any:
    """Return the argument that an operation changed in place, or a new tensor of the device."""
    if not isinstance(one, Tensor):
        return one
    same = (other for other in given if isinstance(other, DeviceTensor) and other.content is one)
    found = next(same, None)
    return DeviceTensor(one) if found is None else found


def _is_read(function: Any, args: Sequence[Any]) -> bool:
    packet = function.overloadpacket
    if packet in INDEXING:
        return any(isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1])
    return packet in READS


def to_simulated(module: torch.nn.Module) -> None:
    """Move parameters and buffers to the device, in place; within `SimulatedDevice`."""
    module._apply(lambda tensor: tensor.to(DEVICE, non_blocking=True))
