"""Worker processes of the loaders: their number, initialization and termination."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import cv2
import torch

from utils.datasets.control_groups import cpu_limits

MAX_WORKERS = 8
"""Default limit per process. Eight workers make 2,000 samples of 640 px per second, at the 250 per
core that docs/performance.md reports."""
PROCESSORS_PER_WORKER = 4
"""Default on a CPU, where making a sample takes less than a tenth of the time of training on it,
and where more workers take processors from the training."""


def usable_workers(
    wanted: int | None, batches: int, *, processes: int = 1, for_gpu: bool = False
) -> int:
    """Return the number of loader workers of a process, at most one per processor and per batch.

    Args:
        wanted: workers of this machine, divided by its processes; None: as many as help.
        batches: batches per epoch.
        processes: processes on this machine that load batches at the same time.
        for_gpu: whether the batches are for a GPU; otherwise the network needs the processors too.
    """
    own = max(processors() // processes, 1)
    if wanted is None:
        helpful = own - 1 if for_gpu else own // PROCESSORS_PER_WORKER
        wanted = min(max(helpful, 1), MAX_WORKERS)
    elif wanted > 0:
        wanted = max(wanted // processes, 1)
    return min(wanted, own, batches)


def processors() -> int:
    """Return the number of processors of this process, by its affinity and its control group."""
    # Not on macOS and Windows.
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min([own, *map(math.ceil, cpu_limits())]), 1)


class WorkerDeaths:
    """Defers the error of a worker that was killed until a batch is awaited.

    torch raises it in the handler of SIGCHLD, so anywhere, also in the middle of a training step.
    """

    def __init__(self) -> None:
        self._raise: Callable[[int, FrameType | None], object] | None = None  # torch's handler
        self._awaited = False

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Context in which a dead worker raises torch's RuntimeError, also if it died before."""
        is_main = threading.current_thread() is threading.main_thread()
        found = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
        if is_main and callable(found) and found != self._on_signal:
            self._raise = found
            signal.signal(signal.SIGCHLD, self._on_signal)
        self._awaited = True
        try:
            self._check()
            yield
        finally:
            self._awaited = False

    def _on_signal(self, *_: object) -> None:
        if self._awaited:
            self._check()

    def _check(self) -> None:
        if self._raise is not None:
            self._raise(signal.SIGCHLD, None)


WORKER_DEATHS = WorkerDeaths()


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM in this process and in processes started within the context."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(worker: int, *, niceness: int) -> None:
    """Initialize a loader worker: one thread, and no reaction to signals that stop a run.

    There can be one worker per processor, so each uses one thread. Terminals and schedulers send
    signals to every process, but the run finishes its step first and then stops its workers itself.

    Args:
        worker: index of the worker.
        niceness: increment of its niceness, see nice(2); 0 for none.
    """
    if niceness and hasattr(os, "nice"):  # not on Windows
        os.nice(niceness)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows, where SIGTERM ends workers
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_exit_on_parent_sigterm, daemon=True).start()


def _exit_on_parent_sigterm() -> None:
    """Exit when the parent process sends SIGTERM, as multiprocessing does to clean up."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
