"""Distributed training: one process, or several processes started by torchrun."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore  # type: ignore[attr-defined] # exists at run time
from torch.distributed.rendezvous import rendezvous

from utils.errors import RunInterruptedError, UserError

GLOO_TIMEOUT = timedelta(days=7)  # the other processes wait while the main process evaluates
NCCL_TIMEOUT = timedelta(minutes=10)  # for the other GPUs, within a step
SHARED_MEMORY, OPEN_FILES = Path("/dev/shm"), Path("/proc/self/fd")  # noqa: S108 -- of Linux
TORCHRUN_VARIABLES = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")

Value = TypeVar("Value")


@dataclass(frozen=True)
class Distributed:
    """Rank and world size of this process.

    Every method is collective: all processes call it. It raises `UserError` if one has ended.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Index of this process on its machine, and of its GPU."""
    local_world_size: int = 1
    """Number of processes on this machine."""

    @property
    def shares_memory(self) -> bool:
        """Whether several processes run on this machine, and can open a file in shared memory."""
        return self.local_world_size > 1 and SHARED_MEMORY.is_dir() and OPEN_FILES.is_dir()

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of the tensors of all processes, not differentiable."""
        return tensor if self.world_size == 1 else all_reduce_sum(tensor.detach())

    def start_sum(self, tensor: Tensor) -> Callable[[], None]:
        """Begin to replace a tensor by its sum over all processes; the result waits for it."""
        with _peer_failures_as_user_errors():
            work = dist.all_reduce(tensor, async_op=True)

        def wait() -> None:
            with _peer_failures_as_user_errors():
                work.wait()

        return wait

    def all_reduce_max(self, number: int) -> int:
        """Return the maximum of the numbers of all processes."""
        if self.world_size == 1:
            return number
        shared = torch.tensor(number)
        with _peer_failures_as_user_errors():
            dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=_gloo_group())
        return int(shared.item())

    def broadcast(self, value: Value) -> Value:
        """Return the value of the main process in every process."""
        if self.world_size == 1:
            return value
        shared = [value]
        with _peer_failures_as_user_errors():
            dist.broadcast_object_list(shared, src=0, group=_gloo_group())
        return shared[0]

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes in the main process, and an empty list in others."""
        if self.world_size == 1:
            return [value]
        found: list[Value] = [value] * self.world_size if self.is_main else []
        with _peer_failures_as_user_errors():
            dist.gather_object(value, found if self.is_main else None, group=_gloo_group())
        return found

    def on_main(self, work: Callable[[], Value]) -> Value:
        """Run `work` in the main process, and return its result in every process.

        Raises:
            RunInterruptedError: in every process, if it interrupted the work.
        """
        found: Value | RunInterruptedError | None = None
        if self.is_main:
            try:
                found = work()
            except RunInterruptedError as stop:
                found = stop
        found = self.broadcast(found)
        if isinstance(found, RunInterruptedError):
            raise found
        return cast("Value", found)

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Replace contiguous tensors on the device by those of the main process."""
        if self.world_size == 1:
            return
        with _peer_failures_as_user_errors():
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    @contextmanager
    def local_main_first(self) -> Iterator[None]:
        """Run the body first in the first process of each machine, to fill a cache, then in all."""
        if self.local_rank:
            self.all_reduce_max(0)
        yield
        if not self.local_rank:
            self.all_reduce_max(0)

    @contextmanager
    def shared_file(self, create: bool) -> Iterator[tuple[Path, bool] | None]:
        """Open one empty file in shared memory in all processes of this machine.

        Yields its path, and whether this process is the first of the machine, which fills it; None
        if it is not created.

        Its name is removed before it is filled, so that nothing is left behind if the processes are
        killed; its memory is free when the last of them has ended. Leaving the context waits for
        the first process of each machine.

        Args:
            create: whether to create it; the first process of the machine decides.
        """
        descriptor, name = -1, ""
        if create and not self.local_rank:
            descriptor, name = tempfile.mkstemp(prefix="yolov5-extend-", dir=SHARED_MEMORY)
        name = self._of_local_main(name)
        if not name:
            yield None
            return
        if self.local_rank:
            descriptor = os.open(name, os.O_RDWR)
        self.all_reduce_max(0)
        if not self.local_rank:
            Path(name).unlink()
        # Also workers can open it by this path, as long as this process keeps it open.
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}"), not self.local_rank
        self.all_reduce_max(0)

    def _of_local_main(self, text: str) -> str:
        """Return the text of the first process of this machine."""
        texts = [text] * self.world_size
        with _peer_failures_as_user_errors():
            dist.all_gather_object(texts, text, group=_gloo_group())
        return texts[self.rank - self.local_rank]


SINGLE_PROCESS = Distributed()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Return the sum of the tensors of all processes, of which there are several.

    Raises:
        UserError: another process has ended.
    """
    total = tensor.clone()
    with _peer_failures_as_user_errors():
        dist.all_reduce(total)
    return total


def all_gather(tensor: Tensor) -> Tensor:
    """Return the tensors of all processes, of which there are several, stacked by rank.

    Raises:
        UserError: another process has ended.
    """
    found = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    with _peer_failures_as_user_errors():
        dist.all_gather(found, tensor)
    return torch.stack(found)


def distributed_from_environment() -> Distributed:
    """Return rank and world size from torchrun's variables; a single process without torchrun.

    Raises:
        UserError: WORLD_SIZE is set, but other variables of torchrun are not.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return SINGLE_PROCESS
    missing = [name for name in TORCHRUN_VARIABLES if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE is {count}, but {', '.join(missing)} is not set; start the processes with "
            "torchrun, or unset WORLD_SIZE."
        )
    rank, local_rank, local_world_size = (int(os.environ[name]) for name in TORCHRUN_VARIABLES)
    return Distributed(rank, count, local_rank, local_world_size)


@cache
def _store_of_this_try() -> PrefixStore:
    """Return the key-value store of all processes, which torchrun keeps.

    It survives a restart of the processes, so the keys of an earlier try are kept apart. Otherwise
    a process could wait forever for the address of one that has ended.
    """
    store, _, _ = next(rendezvous("env://"))
    return PrefixStore(f"try {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


@contextmanager
def ending_all_on_error(
    distributed: Distributed,
    print_error: Callable[[BaseException], None],
    exit_code_of: Callable[[BaseException], int],
) -> Iterator[None]:
    """End this process at once after an error, without the cleanup that waits for the others.

    torchrun then ends the other processes. The error is printed by the process in which it happened
    first, not by those that lose their connection to it. A single process raises the error.
    """
    if distributed.world_size == 1:
        yield
        return
    store = _store_of_this_try()
    try:
        yield
    except RunInterruptedError:
        raise
    except BaseException as error:  # noqa: BLE001 -- all end the process
        try:
            is_first = store.add("errors", 1) == 1
        except RuntimeError:  # the process that keeps the store has ended
            is_first = True
        if is_first:
            print_error(error)
        for child in multiprocessing.active_children():  # workers of the loaders
            child.terminate()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code_of(error))


@contextmanager
def process_group(distributed: Distributed, device: torch.device) -> Iterator[None]:
    """Initialize the process groups: NCCL for tensors on GPUs, gloo for everything else.

    An error leaves them as they are: destroying them would wait for the other processes, which wait
    for this one. `ending_all_on_error` then ends the process.

    Raises:
        UserError: the device does not support distributed training.
    """
    if distributed.world_size == 1:
        yield
        return
    if device.type not in ("cpu", "cuda"):
        raise UserError(
            f"--device {device.type}: distributed training needs CUDA GPUs or CPUs; "
            "start one process or use --device cpu."
        )
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)  # otherwise every process would also use the first GPU
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        device_id=device if cuda else None,
        timeout=NCCL_TIMEOUT if cuda else GLOO_TIMEOUT,
        store=_store_of_this_try(),
        rank=distributed.rank,
        world_size=distributed.world_size,
    )
    _gloo_group()  # all processes must create it together
    try:
        yield
    except RunInterruptedError:
        _leave_group(distributed)
        raise
    _leave_group(distributed)


def _leave_group(distributed: Distributed) -> None:
    """Destroy the process groups, when the main process has written its report too."""
    distributed.all_reduce_max(0)
    _gloo_group.cache_clear()
    dist.destroy_process_group()


@cache
def _gloo_group() -> dist.ProcessGroup | None:
    """Return the gloo group beside NCCL; None if the default group is gloo."""
    if dist.get_backend() == "gloo":
        return None
    group = dist.new_group(backend="gloo", timeout=GLOO_TIMEOUT)
    assert isinstance(group, dist.ProcessGroup)  # every process is in it; for the type checker
    return group


@contextmanager
def _peer_failures_as_user_errors() -> Iterator[None]:
    """Convert errors of collectives to `UserError`."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the connection to another process of this run is lost, usually because it has ended "
            f"({reason}); resume from the last checkpoint with --resume."
        ) from error
