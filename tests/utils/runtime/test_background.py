import threading
from collections.abc import Generator
from contextlib import closing

import pytest

from utils.runtime.background import BackgroundWorker, read_ahead


def fail() -> None:
    raise OSError("disk full")


def test_jobs_run_in_order_in_the_background() -> None:
    release, order = threading.Event(), []

    def first() -> None:
        release.wait(10)
        order.append("first")

    with BackgroundWorker() as background:
        background.submit(first)
        order.append("caller")
        release.set()
        background.submit(lambda: order.append("second"))
    assert order == ["caller", "first", "second"]


def test_error_of_a_job_is_raised_by_the_next_call() -> None:
    with BackgroundWorker() as background:
        background.submit(fail)
        with pytest.raises(OSError, match="disk full"):
            background.submit(lambda: None)
        background.submit(fail)
        with pytest.raises(OSError, match="disk full"):
            background.wait()
        background.wait()


def test_enqueue_does_not_wait() -> None:
    release, order = threading.Event(), []

    def first() -> None:
        release.wait(10)
        order.append("first")

    with BackgroundWorker() as background:
        background.enqueue(first)
        background.enqueue(lambda: order.append("second"))
        order.append("caller")
        release.set()
        background.wait()
        background.enqueue(lambda: order.append("third"))
    assert order == ["caller", "first", "second", "third"]


def test_jobs_after_a_failed_job_are_not_run() -> None:
    order: list[str] = []
    with BackgroundWorker() as background:
        background.submit(fail)
        background.enqueue(lambda: order.append("second"))
        background.enqueue(lambda: order.append("third"))
        with pytest.raises(OSError, match="disk full"):
            background.wait()
        background.enqueue(lambda: order.append("fourth"))
    assert order == ["fourth"]


def test_leaving_the_context_waits_and_raises() -> None:
    with pytest.raises(OSError, match="disk full"), BackgroundWorker() as background:
        background.submit(fail)


def test_error_of_the_context_has_priority() -> None:
    def fail_inside() -> None:
        with BackgroundWorker() as background:
            background.submit(fail)
            raise KeyError("outside")

    with pytest.raises(KeyError, match="outside"):
        fail_inside()


class Numbers:
    """A generator of 0, 1, ..., that notes what has been read, and fails at `failing`."""

    def __init__(self, failing: int = 99) -> None:
        self.read: list[int] = []
        self.failing = failing
        self.closed = False
        self.progress = threading.Condition()

    def __call__(self) -> Generator[int]:
        try:
            for number in range(6):
                if number == self.failing:
                    raise OSError("disk failed")
                with self.progress:
                    self.read.append(number)
                    self.progress.notify_all()
                yield number
        finally:
            self.closed = True

    def wait_for(self, count: int) -> bool:
        with self.progress:
            return self.progress.wait_for(lambda: len(self.read) == count, timeout=10)


def test_items_are_read_ahead_in_order_up_to_the_depth() -> None:
    numbers = Numbers()
    found = []
    with closing(read_ahead(numbers(), lambda _: 2)) as ahead:
        for number in ahead:
            found.append(number)
            assert numbers.wait_for(min(number + 3, 6))
    assert found == [0, 1, 2, 3, 4, 5]


def test_nothing_is_read_ahead_of_a_live_item() -> None:
    numbers = Numbers()
    with closing(read_ahead(numbers(), lambda number: 2 if number > 2 else 0)) as ahead:
        assert [(next(ahead), len(numbers.read)) for _ in range(3)] == [(0, 1), (1, 2), (2, 3)]
        assert next(ahead) == 3
        assert numbers.wait_for(6)


def test_error_of_a_reader_is_raised_in_its_place() -> None:
    numbers = Numbers(failing=3)
    with closing(read_ahead(numbers(), lambda _: 4)) as ahead:
        assert [next(ahead) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(OSError, match="disk failed"):
            next(ahead)
    assert numbers.closed


def test_closing_ends_the_reader() -> None:
    numbers = Numbers()
    threads = threading.active_count()
    with closing(read_ahead(numbers(), lambda _: 1)) as ahead:
        assert next(ahead) == 0
    assert numbers.closed
    assert len(numbers.read) <= 2
    assert threading.active_count() == threads
