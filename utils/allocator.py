"""Keeping freed memory, where the C library would give it back only to ask for it again."""

from __future__ import annotations

import ctypes
import platform

import torch

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # parameters of mallopt(3), from malloc.h
NEVER, NONE = -1, 0


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
