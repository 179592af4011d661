"""Work that need not keep the training waiting: one job after another, in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Background:
    """Runs jobs in the order in which they come; leaving it waits for the last one."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="background")
        self._running: Future[None] | None = None

    def __enter__(self) -> Background:
        """Nothing is started before the first job."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Wait; what went wrong outside is not hidden by what went wrong in a job."""
        self._thread.shutdown(wait=True)
        if error is None:
            self.wait()

    def do(self, job: Callable[[], None]) -> None:
        """Start a job when the one before it is done.

        Args:
            job: reads nothing that may change meanwhile.

        Raises:
            Exception: what the job before raised.
        """
        self.wait()
        self._running = self._thread.submit(job)

    def then(self, job: Callable[[], None]) -> None:
        """Start a job when the one before it is done, without waiting for that here.

        If the one before raises, the job is not run, and the error is kept for `do` or `wait`.

        Args:
            job: reads nothing that may change meanwhile.
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
            Exception: what it raised, or one before it.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()
