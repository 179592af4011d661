"""Signals that ask a run to stop: noted when they come, obeyed between two steps."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

from utils.errors import RunInterruptedError
from utils.runtime.distributed import SINGLE_PROCESS, Distributed

EXIT_CODES = {
    name: code
    for name, code in (
        ("SIGINT", 130),  # 128 + the signal's number, the shell's convention
        ("SIGTERM", 143),
        ("SIGUSR1", 85),  # what schedulers are told to requeue a job upon
    )
    if hasattr(signal, name)
}
SAME_PRESS = 1.0
"""Seconds in which SIGINTs are one: a terminal and torchrun both pass Ctrl-C on to a process."""


class Interrupts:
    """While entered, SIGTERM, SIGINT and SIGUSR1 are noted instead of ending the process.

    SIGINT after any of them raises KeyboardInterrupt at once. Outside the main thread nothing is
    noted, since Python lets nobody else handle signals.

    Args:
        distributed: of the run; a signal to one of them stops all after the same step.
    """

    def __init__(self, distributed: Distributed = SINGLE_PROCESS) -> None:
        self._distributed = distributed
        self._noted: str | None = None
        self._noted_at = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        """Take the signals over."""
        if threading.current_thread() is threading.main_thread():
            for name in EXIT_CODES:
                number = signal.Signals[name]
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Give the signals back to whom they belonged to."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # as it was returned
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        now = time.monotonic()
        if self._noted is None:
            self._noted, self._noted_at = name, now
        elif name == "SIGINT" and now - self._noted_at > SAME_PRESS:
            raise KeyboardInterrupt

    def check(self, *_: object) -> None:
        """Stop here if any process of the run was told to; all of them call this together.

        Raises:
            RunInterruptedError: a signal came.
        """
        names = list(EXIT_CODES)
        own = 0 if self._noted is None else names.index(self._noted) + 1
        agreed = self._distributed.all_reduce_max(own)
        if agreed:
            raise _interruption(names[agreed - 1])

    def check_own(self, *_: object) -> None:
        """Stop here if this process was told to, while the others wait for it.

        Raises:
            RunInterruptedError: a signal came.
        """
        if self._noted is not None:
            raise _interruption(self._noted)


def _interruption(name: str) -> RunInterruptedError:
    return RunInterruptedError(name, EXIT_CODES[name])
