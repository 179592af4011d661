import threading

import pytest

from utils.runtime.background import Background


def fail() -> None:
    raise OSError("disk full")


def test_jobs_run_one_after_another_beside_the_caller() -> None:
    release, order = threading.Event(), []

    def first() -> None:
        release.wait(10)
        order.append("first")

    with Background() as background:
        background.do(first)
        order.append("caller")
        release.set()
        background.do(lambda: order.append("second"))
    assert order == ["caller", "first", "second"]


def test_what_a_job_raises_comes_with_the_next_one() -> None:
    with Background() as background:
        background.do(fail)
        with pytest.raises(OSError, match="disk full"):
            background.do(lambda: None)
        background.do(fail)
        with pytest.raises(OSError, match="disk full"):
            background.wait()
        background.wait()


def test_a_job_can_be_begun_behind_another_without_waiting() -> None:
    release, order = threading.Event(), []

    def first() -> None:
        release.wait(10)
        order.append("first")

    with Background() as background:
        background.then(first)
        background.then(lambda: order.append("second"))
        order.append("caller")
        release.set()
        background.wait()
        background.then(lambda: order.append("third"))
    assert order == ["caller", "first", "second", "third"]


def test_a_job_behind_one_that_fails_is_not_run() -> None:
    order: list[str] = []
    with Background() as background:
        background.do(fail)
        background.then(lambda: order.append("second"))
        background.then(lambda: order.append("third"))
        with pytest.raises(OSError, match="disk full"):
            background.wait()
        background.then(lambda: order.append("fourth"))
    assert order == ["fourth"]


def test_leaving_waits_and_tells_what_went_wrong() -> None:
    with pytest.raises(OSError, match="disk full"), Background() as background:
        background.do(fail)


def test_what_goes_wrong_outside_is_told_first() -> None:
    def go_wrong() -> None:
        with Background() as background:
            background.do(fail)
            raise KeyError("outside")

    with pytest.raises(KeyError, match="outside"):
        go_wrong()
