"""The machine a run is on: device, number format, memory."""

from __future__ import annotations

import ctypes
import platform
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.runtime.distributed import SINGLE_PROCESS, Distributed

GIGABYTE = 1e9
PIXEL_MAX = 255.0
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # getrusage: bytes on macOS, KiB on Linux
BF16_CUDA_CAPABILITY = 8  # Ampere, the first with bf16 tensor cores
TRIM_THRESHOLD, MMAP_MAX = -1, -4  # parameters of mallopt(3), from malloc.h
NEVER, NONE = -1, 0


def select_device(text: str = "", distributed: Distributed = SINGLE_PROCESS) -> torch.device:
    """The device named by `--device`: '' (first GPU, else CPU), 'cpu', 'mps', or a CUDA index.

    Several processes take the machine's GPUs in turn, or those of a list such as '0,2'.

    Raises:
        UserError: the device is not on this machine, or several are named.
    """
    name = text.strip().lower().removeprefix("cuda:")
    if distributed.world_size > 1 and name != "cpu" and torch.cuda.is_available():
        numbers = name.split(",") if name else [str(n) for n in range(torch.cuda.device_count())]
        if distributed.local_rank >= len(numbers):
            raise UserError(f"--device {text}: name as many GPUs as there are processes.")
        name = numbers[distributed.local_rank]
    if name == "":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("--device mps: this machine has no Metal device; use --device cpu.")
        return torch.device("mps")
    if name == "cuda":
        name = "0"
    if not name.isdigit():
        raise UserError(f"--device {text}: give one device: cpu, mps or the number of a GPU.")
    count = torch.cuda.device_count()
    if int(name) >= count:
        raise UserError(
            f"--device {text}: this machine has {count} CUDA devices; use --device cpu."
        )
    return torch.device(f"cuda:{name}")


@dataclass(frozen=True)
class Precision:
    """The number format of the forward pass; weights, losses and the optimizer stay in fp32."""

    name: str
    """fp32, bf16 or fp16."""
    device_type: str

    @property
    def needs_scaler(self) -> bool:
        """Gradients of fp16 underflow without loss scaling; bf16 has the range of fp32."""
        return self.name == "fp16"

    @property
    def for_evaluation(self) -> str:
        """The format to validate in: fp32, or fp16 where a GPU trains in less.

        The 8 bits of bf16 are enough to learn with, but boxes are judged by overlaps of up to 0.95:
        on COCO128 at 320 pixels they move mAP50-95 by 0.004.
        """
        return "fp16" if self.device_type == "cuda" and self.name != "fp32" else "fp32"

    @property
    def dtype(self) -> torch.dtype:
        """The format as torch calls it."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.name]

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass in this format."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)


def choose_precision(amp: str, device: torch.device) -> Precision:
    """Resolve `--amp`: auto is bf16 or fp16 on CUDA, and bf16 on CPUs with instructions for it.

    Raises:
        UserError: fp16 was asked for on a CPU.
    """
    if amp == "auto":
        amp = _native_format(device)
    if amp == "fp16" and device.type == "cpu":
        raise UserError("--amp fp16 needs a GPU; a CPU can train with --amp bf16 or --amp off.")
    return Precision("fp32" if amp == "off" else amp, device.type)


def _native_format(device: torch.device) -> str:
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        return "bf16" if major >= BF16_CUDA_CAPABILITY else "fp16"
    if device.type == "cpu" and _cpu_multiplies_bf16():
        return "bf16"
    return "off"


def _cpu_multiplies_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def images_to_device(
    images: Tensor, device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Uint8 images [B, 3, H, W] to 0 … 1 on the device, in the number format of the forward pass.

    Every format holds 0 … 255 exactly, so this rounds once, as autocast would round a float32.
    Channels last: convolutions run faster so, those of yolov5n on a CPU 1.7 times as fast.
    """
    moved = images.to(device, non_blocking=True)
    return moved.to(dtype, memory_format=torch.channels_last).div_(PIXEL_MAX)


def memory_in_use(device: torch.device) -> float:
    """Gigabytes reserved on the GPU, or the peak resident size of this process on other devices.

    Windows has no such figure to ask for without another package; it is 0 there.
    """
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device) / GIGABYTE
    if sys.platform == "win32":
        return 0.0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / GIGABYTE


def keep_freed_memory(device: torch.device) -> bool:
    """Let the rest of this process, and processes forked from it, reuse memory that was freed.

    glibc hands large blocks back to the system as soon as they are freed. The layers of a step ask
    for gigabytes in such blocks, every time anew, and the system fills every page with zeros before
    a first touch: on a CPU that was a quarter of a training epoch.

    Args:
        device: that the process computes on; on a GPU torch does the like itself.

    Returns:
        Whether it was done; there is nothing to do without glibc.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(TRIM_THRESHOLD, NEVER) and mallopt(MMAP_MAX, NONE))


def compile_forward(model: nn.Module, device: torch.device, *, any_shape: bool) -> None:
    """Let a model's forward pass be compiled when it is called next.

    Its parameters and their names stay, and a copy of it, such as the average of its weights or
    what is validated, is not compiled. What is computed differs from what it was by rounding.

    Args:
        model: its calls are compiled from now on.
        device: it is on.
        any_shape: make one version for images of any shape, the first that comes being its model,
            instead of one for each shape, which does not depend on those that came before it.

    Raises:
        UserError: this machine lacks what torch compiles with.
    """
    _try_to_compile(device)
    model.compile(dynamic=any_shape)


def _try_to_compile(device: torch.device) -> None:
    """Compile and call the smallest function, before anything is trained or written."""
    try:
        torch.compile(lambda x: x + 1, dynamic=False)(torch.zeros(2, device=device))
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--compile does not work here ({reason}): install a C++ compiler such as g++, and "
            "triton where there is a GPU, or train without it."
        ) from error
