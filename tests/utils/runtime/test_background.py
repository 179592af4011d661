import threading

import pytest

from utils.runtime.background import BackgroundWorker


def fail() -> None:
    raise OSError("disk full")


def test_jobs_run_one_after_another_beside_the_caller() -> None:
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


def test_what_a_job_raises_comes_with_the_next_one() -> None:
    with BackgroundWorker() as background:
        background.submit(fail)
        with pytest.raises(OSError, match="disk full"):
            background.submit(lambda: None)
        background.submit(fail)
        with pytest.raises(OSError, match="disk full"):
            background.wait()
        background.wait()


def test_a_job_can_be_begun_behind_another_without_waiting() -> None:
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


def test_a_job_behind_one_that_fails_is_not_run() -> None:
    order: list[str] = []
    with BackgroundWorker() as background:
        background.submit(fail)
        background.enqueue(lambda: order.append("second"))
        background.enqueue(lambda: order.append("third"))
        with pytest.raises(OSError, match="disk full"):
            background.wait()
        background.enqueue(lambda: order.append("fourth"))
    assert order == ["fourth"]


def test_leaving_waits_and_tells_what_went_wrong() -> None:
    with pytest.raises(OSError, match="disk full"), BackgroundWorker() as background:
        background.submit(fail)


def test_what_goes_wrong_outside_is_told_first() -> None:
    def go_wrong() -> None:
        with BackgroundWorker() as background:
            background.submit(fail)
            raise KeyError("outside")

    with pytest.raises(KeyError, match="outside"):
        go_wrong()
