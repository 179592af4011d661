"""Run jobs in a background thread, one after another, without blocking the training."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWorker:
    """Runs jobs in order, in one thread. Leaving the context waits for the last job."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="background")
        self._running: Future[None] | None = None

    def __enter__(self) -> BackgroundWorker:
        """Return the object itself; the thread starts with the first job."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Wait for the last job; raise its error only if the context itself raised none."""
        self._thread.shutdown(wait=True)
        if kind is None:
            self.wait()

    def submit(self, job: Callable[[], None]) -> None:
        """Wait for the previous job and raise its error, if any; then start this one.

        The job must not read anything that changes in the meantime.
        """
        self.wait()
        self.enqueue(job)

    def enqueue(self, job: Callable[[], None]) -> None:
        """Queue a job behind the previous one, without waiting.

        If the previous job raises, this job does not run, and `submit` or `wait` raises the error.
        """
        before = self._running

        def after_it() -> None:
            if before is not None:
                before.result()
            job()

        self._running = self._thread.submit(after_it)

    def wait(self) -> None:
        """Wait for the last job; raise its error, or that of a job before it."""
        running, self._running = self._running, None
        if running is not None:
            running.result()
