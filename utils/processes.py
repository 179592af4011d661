"""The processes of a run: one, or several started by torchrun that train as one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from utils.errors import UserError

PATIENCE = timedelta(days=7)
"""How long a process waits for the others: the first validates and saves while they do."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """This process among those of the run. Every method but `first` is called by all together."""

    rank: int = 0
    """Number of this process."""
    count: int = 1
    local_rank: int = 0
    """Number of this process among those of its machine, which is also its GPU's."""

    @property
    def first(self) -> bool:
        """Whether this is the process that validates, writes and talks."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of every process's tensor, of the same shape and not differentiable.

        Raises:
            UserError: another process has ended.
        """
        if self.count == 1:
            return tensor
        summed = tensor.detach().clone()
        with others_alive():
            dist.all_reduce(summed)
        return summed

    def total_gradients(self, model: torch.nn.Module) -> None:
        """Replace every gradient by the sum over the processes, in one message.

        Raises:
            UserError: another process has ended.
        """
        if self.count == 1:
            return
        parameters = [p for p in model.parameters() if p.requires_grad]
        for p in parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        gradients = [p.grad for p in parameters if p.grad is not None]
        message = torch.cat([gradient.reshape(-1) for gradient in gradients])
        with others_alive():
            dist.all_reduce(message)
        parts = message.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def highest(self, number: int) -> int:
        """The highest of every process's number.

        Raises:
            UserError: another process has ended.
        """
        if self.count == 1:
            return number
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        shared = torch.tensor(number, device=device)
        with others_alive():
            dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return int(shared.item())

    def from_first(self, value: Value) -> Value:
        """What the first process has, given to all.

        Raises:
            UserError: another process has ended.
        """
        if self.count == 1:
            return value
        shared = [value]
        with others_alive():
            dist.broadcast_object_list(shared, src=0)
        return shared[0]

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Let the first process do something, such as filling a cache, before the others do."""
        if not self.first:
            self.highest(0)
        yield
        if self.first:
            self.highest(0)


ALONE = Processes()


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """This process among those that torchrun started; alone without torchrun.

    Args:
        device: as `--device` has it. GPUs exchange by NCCL, and CPUs by gloo.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    processes = Processes(int(os.environ["RANK"]), count, int(os.environ["LOCAL_RANK"]))
    on_gpu = device != "cpu" and torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield processes
    finally:
        dist.destroy_process_group()


@contextmanager
def others_alive() -> Iterator[None]:
    """Tell a broken connection in the user's words.

    Raises:
        UserError: another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"another process of this run has ended, so this one does too ({reason}); go on from "
            "the last checkpoint with --resume."
        ) from error
