"""The processes that prepare batches: how many, and how they start and end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import torch


def usable_workers(wanted: int, batches: int) -> int:
    """At most one process per processor, and per batch."""
    return min(wanted, os.cpu_count() or 1, batches)


@contextmanager
def signals_held() -> Iterator[None]:
    """Let signals wait, here and in the processes that are started meanwhile."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(worker: int, *, niceness: int) -> None:
    """Keep each worker to one thread: there are as many workers as processors.

    And let it outlive the signals that ask a run to stop, which terminals and schedulers send to
    every process: the run finishes its step first, and then ends its workers itself.

    Args:
        worker: its number.
        niceness: by which it lets others go first, 0 for not at all; see nice(2).
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
        threading.Thread(target=_obey_parent_alone, daemon=True).start()


def _obey_parent_alone() -> None:
    """End this process when its parent sends SIGTERM, as multiprocessing does to clean up."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
