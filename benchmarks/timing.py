"""Measuring several variants by turns, and the parts of a piece of work on a CPU or a GPU."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

Results = dict[str, float]
"""What one measurement gave, by name; the name says the unit."""
Measure = Callable[[], Results]

MILLISECONDS = 1000.0
MEGABYTE = 1e6
FORGET_PEAK = "5"
"""Written to Linux' clear_refs: the greatest resident size is counted anew, proc_pid_clear_refs(5).
"""


class Spread(NamedTuple):
    """A figure over all rounds."""

    median: float
    least: float
    most: float


def by_turns(
    variants: Mapping[str, Measure], rounds: int, warm_up: int
) -> dict[str, dict[str, Spread]]:
    """Measure the variants A B A B ..., so that what slows the machine down slows all of them.

    Args:
        variants: what to measure, by name.
        rounds: measurements of each variant that count.
        warm_up: measurements of each before those.

    Returns:
        By variant and name of the figure. A figure that a round lacks is not counted in it.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in variants}
    for turn in range(-warm_up, rounds):
        for name, measure in variants.items():
            for figure, value in measure().items():
                if turn >= 0:
                    found[name].setdefault(figure, []).append(value)
    return {
        name: {figure: spread(values) for figure, values in result.items()}
        for name, result in found.items()
    }


def spread(values: list[float]) -> Spread:
    """Median, least and greatest of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


class PartTimes:
    """Times the parts of a piece of work that come one after the other, by a mark after each.

    On a GPU the marks are events in its queue: nothing waits for it before `milliseconds` does.

    Args:
        device: that does the work.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []

    def mark(self, part: str) -> None:
        """Note that `part` has ended; the first mark is the beginning, whatever its name."""
        if self._device.type == "cuda":
            import torch

            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((part, event))
        else:
            self._marks.append((part, time.perf_counter()))

    def milliseconds(self) -> Results:
        """The parts since the first mark, parts of the same name summed up; then begin anew."""
        marks, self._marks = self._marks, []
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)
        found: Results = {}
        for (_, begin), (part, end) in itertools.pairwise(marks):
            if isinstance(begin, float) and isinstance(end, float):
                passed = (end - begin) * MILLISECONDS
            elif not isinstance(begin, float) and not isinstance(end, float):
                passed = begin.elapsed_time(end)
            found[part] = found.get(part, 0.0) + passed
        return found


class PeakMemory:
    """The greatest memory in use since this was made: of the GPU, or of this process on a CPU.

    Only Linux can count a process's anew; elsewhere it is the greatest since the process began.

    Args:
        device: whose memory it is.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(device)
        elif (forget := Path("/proc/self/clear_refs")).exists():
            forget.write_text(FORGET_PEAK, encoding="ascii")

    def megabytes(self) -> float:
        """So far."""
        if self._device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated(self._device) / MEGABYTE
        import resource

        from utils.runtime.device import RSS_UNIT

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / MEGABYTE
