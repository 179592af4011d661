"""How much memory and disk there is for caches."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CONTROL_GROUP = Path("/sys/fs/cgroup")  # version 2, as seen from inside a container
KIB = 1024


def available_memory() -> int:
    """Bytes that can be used without swapping, under a container's limit too."""
    free = _from_meminfo()
    limit, used = (_number(CONTROL_GROUP / f"memory.{name}") for name in ("max", "current"))
    if limit is None or used is None:
        return free
    return max(min(free, limit - used), 0)


def free_disk(folder: Path) -> int:
    """Free bytes at `folder`, which may not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _from_meminfo() -> int:
    if MEMINFO.is_file():
        fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * KIB
    if not hasattr(os, "sysconf"):  # Windows, which has no such figure without another package
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _number(file: Path) -> int | None:
    """The number in a file; None where there is no file or, in words, no limit."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
