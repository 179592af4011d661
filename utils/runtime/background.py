"""Run jobs in a background thread, one after another, without blocking the training."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class BackgroundWorker:
    """Runs jobs in order, in one thread. Leaving the context waits for the last job."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="background")
        self._running: Future[None] | None = None

    def __enter__(self) -> BackgroundWorker:
        """Return the object itself; the thread starts with the first job."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Wait for the last job; raise its error only if the context itself raised none."""
        self._thread.shutdown(wait=True)
        if error is None:
            self.wait()

    def submit(self, job: Callable[[], None]) -> None:
        """Wait for the previous job, then start this one.

        Args:
            job: the function to call; it must not read anything that changes in the meantime.

        Raises:
            Exception: the error of the previous job.
        """
        self.wait()
        self._running = self._thread.submit(job)

    def enqueue(self, job: Callable[[], None]) -> None:
        """Queue a job behind the previous one, without waiting.

        If the previous job raises, this job does not run, and `submit` or `wait` raises the error.

        Args:
            job: the function to call; it must not read anything that changes in the meantime.
        """
        before = self._running

        def after_it() -> None:
            if before is not None:
                before.result()
            job()

        self._running = self._thread.submit(after_it)

    def wait(self) -> None:
        """Wait for the last job.

        Raises:
            Exception: the error of the last job, or of a job before it.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()
