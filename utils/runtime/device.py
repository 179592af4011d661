"""Device, precision, memory and compilation."""

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
BF16_CUDA_CAPABILITY = (8, 0)  # Ampere, the first architecture with bf16 tensor cores
TRIM_THRESHOLD, MMAP_MAX = -1, -4  # parameters of mallopt(3), from malloc.h
NEVER, NONE = -1, 0


def select_device(text: str = "", distributed: Distributed = SINGLE_PROCESS) -> torch.device:
    """Return the device for `--device`: '' (first GPU, else CPU), 'cpu', 'mps' or a CUDA index.

    In distributed training, each process takes the GPU of its local rank, from all GPUs or from a
    list such as '0,2'.

    Raises:
        UserError: the machine does not have the device, or a single process names several.
    """
    name = text.strip().lower().removeprefix("cuda:")
    if distributed.world_size > 1 and name != "cpu" and torch.cuda.is_available():
        numbers = name.split(",") if name else [str(n) for n in range(torch.cuda.device_count())]
        if distributed.local_rank >= len(numbers):
            raise UserError(
                f"--device {text}: there are {len(numbers)} GPUs for "
                f"{distributed.local_world_size} processes; use one GPU per process."
            )
        name = numbers[distributed.local_rank]
    if name == "":
        name = "0" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("--device mps: this machine has no Metal device; use --device cpu.")
        return torch.device("mps")
    if name == "cuda":
        name = "0"
    if not name.isdigit():
        raise UserError(f"--device {text}: choose one of cpu, mps or the index of a GPU.")
    count = torch.cuda.device_count()
    if int(name) >= count:
        raise UserError(
            f"--device {text}: this machine has {count} CUDA devices; use --device cpu."
        )
    return torch.device(f"cuda:{name}")


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


def images_to_device(
    images: Tensor, device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Move uint8 images to the device and scale them to 0 … 1, in the dtype of the forward pass.

    Every dtype represents 0 … 255 exactly, so the values are rounded once, as autocast would round
    float32. The channels_last memory format makes convolutions faster, those of yolov5n on a CPU
    1.7 times. The images are [B, 3, H, W].
    """
    moved = images.to(device, non_blocking=True)
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
