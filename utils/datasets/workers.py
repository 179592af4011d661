"""Worker processes of the loaders: their number, initialization and termination."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import torch


def usable_workers(wanted: int, batches: int) -> int:
    """Limit the number of workers to one per processor and one per batch."""
    return min(wanted, os.cpu_count() or 1, batches)


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
