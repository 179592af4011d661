"""Signals that stop a run: recorded when they arrive, handled between two steps."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

from utils.errors import RunInterruptedError
from utils.runtime.distributed import SINGLE_PROCESS, Distributed

EXIT_CODES = {
    name: code
    for name, code in (
        ("SIGINT", 130),  # 128 + the signal's number, the shell's convention
        ("SIGTERM", 143),
        ("SIGHUP", 129),  # the terminal was closed
        ("SIGUSR1", 85),  # schedulers can be configured to requeue a job on this exit code
    )
    if hasattr(signal, name)
}
SIGINT_DEBOUNCE_S = 1.0
"""Seconds within which SIGINTs count as one: the terminal and torchrun both forward Ctrl-C."""


class SignalHandler:
    """Context in which SIGTERM, SIGINT, SIGHUP and SIGUSR1 are recorded instead of ending the run.

    A SIGINT after another signal raises KeyboardInterrupt immediately. Outside the main thread
    nothing is recorded, because Python handles signals only in the main thread.

    Args:
        distributed: the processes of the run; a signal to one of them stops all after the same
            step.
    """

    def __init__(self, distributed: Distributed = SINGLE_PROCESS) -> None:
        self._distributed = distributed
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
        """Stop if any process of the run received a signal. Collective: all processes call it.

        Raises:
            RunInterruptedError: a process received a signal.
        """
        names = [None, *EXIT_CODES]
        agreed = names[self._distributed.all_reduce_max(names.index(self._received))]
        if agreed is not None:
            raise RunInterruptedError(agreed, EXIT_CODES[agreed])

    def check_own(self, *_: object) -> None:
        """Stop if this process received a signal, while the other processes wait for it.

        Raises:
            RunInterruptedError: this process received a signal.
        """
        if self._received is not None:
            raise RunInterruptedError(self._received, EXIT_CODES[self._received])
