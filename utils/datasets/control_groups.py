"""Limits of memory and processors by Linux control groups, as of Docker, Kubernetes and Slurm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
NO_NUMBERS = (OSError, ValueError)  # no file, or no limit: its first word is `max`


def _groups(controller: str) -> Iterator[Path]:
    """Yield the control groups of this process and their parents, of versions 1 and 2.

    A container has only its own group, at the mount point, but sees the path of its host.
    """
    with suppress(OSError):
        for line in OWN.read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                mounts = [MOUNT, MOUNT / "unified"]
            else:
                mounts = [MOUNT / controller] if controller in controllers.split(",") else []
            for mount in mounts:
                group = mount / path.lstrip("/")
                yield from (group, *(one for one in group.parents if one.is_relative_to(mount)))


def cpu_limits() -> Iterator[float]:
    """Yield the limits of CPU time, in processors."""
    for group in _groups("cpu"):
        with suppress(*NO_NUMBERS):
            quota, period = map(int, (group / "cpu.max").read_text().split())
            yield quota / period
        with suppress(*NO_NUMBERS):
            quota, period = (
                int((group / f"cpu.cfs_{part}_us").read_text()) for part in ("quota", "period")
            )
            if quota > 0:  # -1: no limit
                yield quota / period


def memory_rooms() -> Iterator[int]:
    """Yield the bytes that are free within each limit; the cache of files counts as free."""
    for group in _groups("memory"):
        for limit, used, prefix in (
            ("memory.max", "memory.current", ""),
            ("memory.high", "memory.current", ""),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        ):
            with suppress(*NO_NUMBERS):
                most, now = (int((group / name).read_text()) for name in (limit, used))
                yield most - now + _reclaimable(group / "memory.stat", prefix)


def _reclaimable(file: Path, prefix: str) -> int:
    with suppress(*NO_NUMBERS):
        found = dict(line.split() for line in file.read_text().splitlines())
        return sum(int(found.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
    return 0
