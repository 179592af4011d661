"""Device, precision, memory and compilation."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.runtime.distributed import Distributed

GIGABYTE = 1e9
PIXEL_MAX = 255.0
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # getrusage: bytes on macOS, KiB on Linux
BF16_CUDA_CAPABILITY = (8, 0)  # Ampere, the first architecture with bf16 tensor cores
TRIM_THRESHOLD, MMAP_MAX = -1, -4  # parameters of mallopt(3), from malloc.h
NEVER, NONE = -1, 0
VISIBLE_GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
CPU_ALLOCATOR = "DefaultCPUAllocator"  # torch has no exception of its own for the CPU's memory
OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED")
"""In the errors of MPS and of CUDA's libraries, which torch does not convert."""


def select_device(text: str = "", distributed: Distributed | None = None) -> torch.device:
    """Return the device for `--device`, and make a GPU the current one of this process.

    '' is the first GPU, or the CPU if there is none; 'cuda' is the first GPU. Otherwise 'cpu',
    'mps' or the index of a visible GPU, such as '1' or 'cuda:1'. Of several processes on a machine,
    each takes the GPU of its local rank, from all GPUs or from a list such as '0,2'.

    Args:
        text: value of `--device`.
        distributed: the processes of the run; None for a program that runs in one process only.

    Raises:
        UserError: the machine does not have the device, or a single process names several.
    """
    name = text.strip().lower()
    if name == "cpu" or (name == "" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("--device mps: this machine has no Metal device; use --device cpu.")
        return torch.device("mps")
    device = torch.device("cuda", _gpu_index(text, distributed))
    # What names no device, such as pinned memory, would otherwise open the first GPU as well.
    torch.cuda.set_device(device)
    return device


def _gpu_index(text: str, distributed: Distributed | None) -> int:
    """Return the index of the GPU of this process among the visible ones."""
    visible = torch.cuda.device_count()
    processes, rank = 1, 0
    if distributed is not None:
        processes, rank = distributed.local_world_size, distributed.local_rank
    if processes > 1 and visible == 1 and any(map(os.environ.get, VISIBLE_GPU_VARIABLES)):
        return 0  # the scheduler shows each process only the GPU that belongs to it
    names = [part.strip().removeprefix("cuda:") for part in text.lower().split(",")]
    indices = list(range(max(visible, 1)))
    if names not in ([""], ["cuda"]):
        if not all(map(str.isdecimal, names)):
            raise UserError(f"--device {text}: choose one of cpu, mps or the index of a GPU.")
        indices = [int(name) for name in names]
    if max(indices) >= visible:
        raise UserError(
            f"--device {text}: this machine has {visible} visible GPUs, counted from 0; use "
            f"{'one of them' if visible else '--device cpu'}."
        )
    if len(names) > processes == 1:
        if distributed is None:
            raise UserError(f"--device {text}: this program uses one GPU; give one of the indices.")
        command = f"torchrun --nproc_per_node {len(names)} {shlex.join(sys.argv)}"
        raise UserError(f"--device {text} needs one process per GPU; start them with: {command}")
    if rank >= len(indices):
        raise UserError(
            f"--device {text}: there are {len(indices)} GPUs for {processes} processes; use one "
            "GPU per process."
        )
    return indices[rank]


@contextmanager
def out_of_memory_as_user_error(remedy: str) -> Iterator[None]:
    """Convert a lack of memory, of the GPU or of the CPU, to a `UserError`.

    Args:
        remedy: what to do, in the imperative.

    Raises:
        UserError: the memory was not enough.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        memory = lacking_memory(error)
        if memory is None:
            raise
        raise UserError(f"out of {memory} memory; {remedy}.") from error


def lacking_memory(error: Exception) -> str | None:
    """Return which memory was not enough, CPU or GPU, if that caused the error."""
    no_memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if no_memory or CPU_ALLOCATOR in str(error):
        return "CPU"
    of_gpu = isinstance(error, torch.OutOfMemoryError)
    return "GPU" if of_gpu or any(phrase in str(error) for phrase in OUT_OF_MEMORY) else None


@contextmanager
def tuned_convolutions(enabled: bool) -> Iterator[None]:
    """Let cuDNN time its algorithms for each new shape, which pays if there are few shapes."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = enabled
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@dataclass(frozen=True)
class Precision:
    """Precision of the forward pass; weights, losses and optimizer stay in fp32."""

    name: str
    """fp32, bf16 or fp16."""
    device_type: str

    @property
    def needs_scaler(self) -> bool:
        """Whether loss scaling is needed: fp16 gradients underflow, bf16 has the range of fp32."""
        return self.name == "fp16"

    @property
    def eval_precision(self) -> str:
        """The precision for evaluation: fp16 if a GPU trains in bf16 or fp16, otherwise fp32.

        The 8 bits of bf16 are enough for training, but evaluation uses IoU thresholds up to 0.95:
        on COCO128 at 320 pixels, bf16 changes mAP50-95 by 0.004.
        """
        return "fp16" if self.device_type == "cuda" and self.name != "fp32" else "fp32"

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.name]

    def autocast(self) -> AbstractContextManager[object]:
        """Return the autocast context for a forward pass in this precision."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)


def choose_precision(amp: str, device: torch.device) -> Precision:
    """Resolve `--amp`. auto is bf16 or fp16 on CUDA, bf16 on CPUs with bf16 instructions, else off.

    Raises:
        UserError: `--amp fp16` on a CPU.
    """
    if amp == "auto" and device.type == "cuda":
        ampere = torch.cuda.get_device_capability(device) >= BF16_CUDA_CAPABILITY
        amp = "bf16" if ampere else "fp16"
    elif amp == "auto":
        amp = "bf16" if device.type == "cpu" and _cpu_multiplies_bf16() else "off"
    if amp == "fp16" and device.type == "cpu":
        raise UserError("--amp fp16 needs a GPU; on a CPU use --amp bf16 or --amp off.")
    return Precision("fp32" if amp == "off" else amp, device.type)


def _cpu_multiplies_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU to the device, unless it is there; the host does not wait.

    To a GPU it goes through pinned memory.
    """
    if tensor.device == device:
        return tensor
    if device.type == "cuda" and tensor.numel() and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class HostCopy:
    """A copy of a small tensor for the host, which begins now and is waited for when it is read."""

    def __init__(self, tensor: Tensor) -> None:
        self._copy = tensor.detach().to("cpu", non_blocking=True)
        self._done: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._done = torch.cuda.Event()
            self._done.record()

    def read(self) -> list[float]:
        """Return the values; waits for them, but not for what was queued after them."""
        if self._done is not None:
            self._done.synchronize()
        values: list[float] = self._copy.tolist()
        return values


def images_to_device(
    images: Tensor, device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Move uint8 images to the device and scale them to 0 … 1, in the dtype of the forward pass.

    Every dtype represents 0 … 255 exactly, so the values are rounded once, as autocast would round
    float32. The channels_last memory format makes convolutions faster, those of yolov5n on a CPU
    1.7 times. The images are [B, 3, H, W].
    """
    moved = to_device(images, device)
    return moved.to(dtype, memory_format=torch.channels_last).div_(PIXEL_MAX)


def memory_in_use(device: torch.device) -> float:
    """Return the gigabytes reserved on the GPU, on other devices the peak RSS of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device) / GIGABYTE
    if sys.platform == "win32":  # reading it needs another package
        return 0.0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / GIGABYTE


def keep_freed_memory(device: torch.device) -> bool:
    """Make this process, and processes forked from it, keep freed memory for reuse.

    glibc returns large blocks to the system as soon as they are freed. The layers of a training
    step allocate gigabytes in such blocks in every step, and the system zeroes every page on first
    use. On a CPU this took a quarter of a training epoch. On a GPU torch has its own allocator.

    Returns:
        Whether the setting was changed; it is not on a GPU or without glibc.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(TRIM_THRESHOLD, NEVER) and mallopt(MMAP_MAX, NONE))


def compile_forward(model: nn.Module, device: torch.device, *, dynamic: bool) -> None:
    """Compile the forward pass of a model, in place, at its next call.

    Parameters keep their names. Copies of the model, such as the EMA model and the model that is
    evaluated, are not compiled. Results differ from the uncompiled model by rounding.

    Args:
        model: the model.
        device: device of the model.
        dynamic: compile once for all image shapes, based on the first one, instead of once per
            shape. One version per shape does not depend on the shapes seen before.

    Raises:
        UserError: torch cannot compile on this machine.
    """
    try:  # to fail now, before anything is trained or written
        torch.compile(lambda x: x + 1, dynamic=False)(torch.zeros(2, device=device))
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--compile: torch.compile does not work on this machine ({reason}); install a C++ "
            "compiler such as g++ and, for a GPU, triton, or remove --compile."
        ) from error
    model.compile(dynamic=dynamic)
