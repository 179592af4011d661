"""Signals and time limits that stop a run: handled between two steps."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Sequence
from types import FrameType

import torch
from torch import Tensor

from utils.errors import RunInterruptedError
from utils.runtime.distributed import SINGLE_PROCESS, Distributed

REQUEUE = 85
"""Schedulers can be configured to start a job again on this exit code."""
EXIT_CODES = {
    name: code
    for name, code in (
        ("SIGINT", 130),  # 128 + the signal's number, the shell's convention
        ("SIGTERM", 143),
        ("SIGHUP", 129),  # the terminal was closed
        ("SIGUSR1", REQUEUE),
    )
    if hasattr(signal, name)
}
SIGINT_DEBOUNCE_S = 1.0
"""Seconds within which SIGINTs count as one: the terminal and torchrun both forward Ctrl-C."""
TIME_LIMIT = "--max-hours"
CAUSES = (TIME_LIMIT, *EXIT_CODES)
"""What stops a run."""


def stopped_on_purpose(option: str) -> RunInterruptedError:
    """Return the error that ends a run which an option stops.

    The exit code is 85, or 0 under torchrun, which restarts the processes on any other.
    """
    return RunInterruptedError(option, 0 if "TORCHELASTIC_RUN_ID" in os.environ else REQUEUE)


class SignalHandler:
    """Context in which SIGTERM, SIGINT, SIGHUP and SIGUSR1 are recorded instead of ending the run.

    A SIGINT after another signal raises KeyboardInterrupt immediately. Outside the main thread
    nothing is recorded, because Python handles signals only in the main thread.

    Args:
        distributed: the processes of the run; a signal to one of them stops all after the same
            step.
        deadline: value of `time.monotonic()` after which the run stops, also after the same step.
    """

    def __init__(
        self, distributed: Distributed = SINGLE_PROCESS, deadline: float = math.inf
    ) -> None:
        self.distributed = distributed
        self._deadline = deadline
        self._received: str | None = None
        self._received_at = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> SignalHandler:
        """Install the signal handlers."""
        if threading.current_thread() is threading.main_thread():
            for name in EXIT_CODES:
                number = signal.Signals[name]
                if name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN:
                    continue  # nohup wants the run to survive its terminal
                self._before[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # as signal.signal returned it
        self._before.clear()

    def _record(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        now = time.monotonic()
        if self._received is None:
            self._received, self._received_at = name, now
        elif name == "SIGINT" and now - self._received_at > SIGINT_DEBOUNCE_S:
            raise KeyboardInterrupt

    def check(self, *_: object) -> None:
        """Stop if any process received a signal or is out of time. Collective: all call it.

        Raises:
            RunInterruptedError: a process received a signal, or its time is over.
        """
        causes = [None, *CAUSES]
        self._stop(causes[self.distributed.all_reduce_max(causes.index(self._own_cause()))])

    def votes(self) -> Tensor:
        """For each of `CAUSES` 1 if it stops this process, else 0; their sums are for `check_sum`.

        Empty in a single process. So processes agree with a sum over them that is computed anyway.
        """
        if self.distributed.world_size == 1:
            return torch.zeros(0)
        own = self._own_cause()
        return torch.tensor([float(cause == own) for cause in CAUSES])

    def check_sum(self, votes: Sequence[float]) -> None:
        """Stop if any process voted for it, or a single process has a cause to.

        Args:
            votes: the sums over all processes, from the last step whose outcome was read.

        Raises:
            RunInterruptedError: a process received a signal, or its time is over.
        """
        if self.distributed.world_size == 1:
            self._stop(self._own_cause())
            return
        self._stop(next((cause for cause, n in zip(CAUSES, votes, strict=False) if n), None))

    def _own_cause(self) -> str | None:
        return self._received or (TIME_LIMIT if time.monotonic() > self._deadline else None)

    def _stop(self, cause: str | None) -> None:
        if cause == TIME_LIMIT:
            raise stopped_on_purpose(TIME_LIMIT)
        if cause is not None:
            raise RunInterruptedError(cause, EXIT_CODES[cause])

    def check_own(self, *_: object) -> None:
        """Stop if this process received a signal, while the other processes wait for it.

        Raises:
            RunInterruptedError: this process received a signal.
        """
        if self._received is not None:
            raise RunInterruptedError(self._received, EXIT_CODES[self._received])
