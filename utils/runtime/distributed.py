"""The processes of a run: one, or several started by torchrun that train as one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from utils.errors import UserError

PATIENCE = timedelta(days=7)
"""How long a process waits for another's word: the first one validates while they do."""
GPU_PATIENCE = timedelta(minutes=10)
"""How long a GPU waits for the others' part of a step."""
STARTED = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")

Value = TypeVar("Value")


@dataclass(frozen=True)
class Distributed:
    """This process among those of the run. Every method but `first` is called by all together."""

    rank: int = 0
    """Number of this process."""
    world_size: int = 1
    local_rank: int = 0
    """Number of this process among those of its machine, which is also its GPU's."""
    local_world_size: int = 1
    """Processes on this machine."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process that validates, writes and talks."""
        return self.rank == 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum of every process's tensor, of the same shape and not differentiable.

        Raises:
            UserError: another process has ended.
        """
        if self.world_size == 1:
            return tensor
        summed = tensor.detach().clone()
        with peer_failures_reported():
            dist.all_reduce(summed)
        return summed

    def all_reduce_gradients(self, model: torch.nn.Module) -> None:
        """Replace every gradient by the sum over the processes, in one message.

        Raises:
            UserError: another process has ended.
        """
        if self.world_size == 1:
            return
        parameters = [p for p in model.parameters() if p.requires_grad]
        for p in parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        gradients = [p.grad for p in parameters if p.grad is not None]
        message = torch.cat([gradient.reshape(-1) for gradient in gradients])
        with peer_failures_reported():
            dist.all_reduce(message)
        parts = message.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def all_reduce_max(self, number: int) -> int:
        """The highest of every process's number.

        Raises:
            UserError: another process has ended.
        """
        if self.world_size == 1:
            return number
        shared = torch.tensor(number)
        with peer_failures_reported():
            dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=_gloo_group())
        return int(shared.item())

    def broadcast(self, value: Value) -> Value:
        """What the first process has, given to all.

        Raises:
            UserError: another process has ended.
        """
        if self.world_size == 1:
            return value
        shared = [value]
        with peer_failures_reported():
            dist.broadcast_object_list(shared, src=0, group=_gloo_group())
        return shared[0]

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the first process do something, such as filling a cache, before the others do."""
        if not self.is_main:
            self.all_reduce_max(0)
        yield
        if self.is_main:
            self.all_reduce_max(0)


SINGLE_PROCESS = Distributed()


def distributed_from_environment() -> Distributed:
    """This process among those that torchrun started; alone without torchrun.

    Raises:
        UserError: something else than torchrun has set its variables, or some of them.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return SINGLE_PROCESS
    missing = [name for name in STARTED if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE is set to {count}, but {', '.join(missing)} is not; start several "
            "processes with torchrun, or unset WORLD_SIZE."
        )
    rank, local_rank, local_world_size = (int(os.environ[name]) for name in STARTED)
    return Distributed(rank, count, local_rank, local_world_size)


@contextmanager
def process_group(distributed: Distributed, device: torch.device) -> Iterator[None]:
    """Connect this process with the others: GPUs sum by NCCL, and all the rest goes by gloo.

    Args:
        distributed: all of them.
        device: of this one.

    Raises:
        UserError: the device has no way to exchange tensors.
    """
    if distributed.world_size == 1:
        yield
        return
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {device.type}: several processes need GPUs of NVIDIA, or CPUs.")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # or every process would also claim the first GPU
        dist.init_process_group("nccl", device_id=device, timeout=GPU_PATIENCE)
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)
    _gloo_group()  # made by all at once, now
    try:
        yield
    finally:
        _gloo_group.cache_clear()
        dist.destroy_process_group()


@cache
def _gloo_group() -> dist.ProcessGroup | None:
    """The connection for what is not summed on GPUs; None for the one there is."""
    if dist.get_backend() == "gloo":
        return None
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(group, dist.ProcessGroup)  # every process is in it; for the type checker
    return group


@contextmanager
def peer_failures_reported() -> Iterator[None]:
    """Tell a broken connection in the user's words.

    Raises:
        UserError: another process has ended, or the connection is broken.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the connection with another process of this run is lost, mostly because that one "
            f"has ended ({reason}); go on from the last checkpoint with --resume."
        ) from error
