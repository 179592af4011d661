import threading

import pytest

from utils.runtime.background import BackgroundWorker


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
