"""Interleaved measurements of several variants; times of the parts of a task on a CPU or a GPU."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

Measurements = dict[str, float]
"""The results of one round, by metric; the name of a metric includes its unit."""

Measure = Callable[[], Measurements]

MILLISECONDS = 1000.0
MEGABYTE = 1e6
KIB = 1024
RESET_PEAK_RSS = "5"
"""Written to /proc/self/clear_refs on Linux, it resets the peak RSS: proc_pid_clear_refs(5)."""


class Spread(NamedTuple):
    """The values of one metric over all rounds."""

    median: float
    least: float
    most: float


def measure_interleaved(
    variants: Mapping[str, Measure], rounds: int, warm_up: int
) -> dict[str, dict[str, Spread]]:
    """Measure the variants in the order A B A B ..., so that a slow machine slows all of them.

    Args:
        variants: functions that measure one round, by variant.
        rounds: rounds of each variant that count.
        warm_up: rounds of each variant before those; they are discarded.

    Returns:
        The spread by variant and metric. Rounds without a metric do not count for that metric.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in variants}
    for turn in range(-warm_up, rounds):
        for name, measure in variants.items():
            for metric, value in measure().items():
                if turn >= 0:
                    found[name].setdefault(metric, []).append(value)
    return {
        name: {metric: spread(values) for metric, values in result.items()}
        for name, result in found.items()
    }


def spread(values: list[float]) -> Spread:
    """Return the median, minimum and maximum of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


class PartTimes:
    """Measures the consecutive parts of a task, with a mark at the end of each part.

    On a GPU the marks are CUDA events: only `milliseconds` waits for the GPU.

    Args:
        device: the device that does the work.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []

    def mark(self, part: str) -> None:
        """Record the end of `part`; the first mark is the start, and its name is ignored."""
        if self._device.type == "cuda":
            import torch

            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((part, event))
        else:
            self._marks.append((part, time.perf_counter()))

    def milliseconds(self) -> Measurements:
        """Return the time by part since the first mark, summed over equal names; then reset."""
        marks, self._marks = self._marks, []
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)
        found: Measurements = {}
        for (_, begin), (part, end) in itertools.pairwise(marks):
            if isinstance(begin, float) and isinstance(end, float):
                passed = (end - begin) * MILLISECONDS
            elif not isinstance(begin, float) and not isinstance(end, float):
                passed = begin.elapsed_time(end)
            found[part] = found.get(part, 0.0) + passed
        return found


class PeakMemory:
    """Peak memory since this object was created: allocated on the GPU, or RSS of this process.

    Only Linux can reset the peak RSS; elsewhere it is the peak since the process started.

    Args:
        device: a GPU, or the CPU for the RSS.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(device)
        elif (clear_refs := Path("/proc/self/clear_refs")).exists():
            clear_refs.write_text(RESET_PEAK_RSS, encoding="ascii")

    def megabytes(self) -> float:
        """Return the peak so far, in MB (1e6 bytes)."""
        if self._device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated(self._device) / MEGABYTE
        status = Path("/proc/self/status")
        if status.exists():  # ru_maxrss would include the process that started this one
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            return int(fields["VmHWM"].split()[0]) * KIB / MEGABYTE
        import resource

        from utils.runtime.device import RSS_UNIT

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / MEGABYTE
