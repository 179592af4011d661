"""Run jobs, or read items, in a background thread, one after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

Item = TypeVar("Item")


def read_ahead(items: Generator[Item], depth: Callable[[Item], int]) -> Generator[Item]:
    """Yield the items of a generator in order, which runs in a thread, ahead of the caller.

    An error of the generator is raised in its place in the order. Closing waits until the item that
    is being read is complete, then closes the generator.

    Args:
        items: the items; none is None.
        depth: how many items to read ahead of this one while the caller uses it; with 0, the next
            one is read when the caller asks for it.
    """
    with closing(items), ThreadPoolExecutor(1, "reader") as thread:
        waiting: deque[Future[Item | None]] = deque()
        try:
            while True:
                waiting = waiting or deque([thread.submit(next, items, None)])
                item = waiting.popleft().result()
                if item is None:
                    return
                while len(waiting) < depth(item):
                    waiting.append(thread.submit(next, items, None))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)


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
