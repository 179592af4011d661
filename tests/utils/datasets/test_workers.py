import os
from multiprocessing import get_context

import pytest

from utils.datasets.workers import start_worker, usable_workers


def test_workers_are_no_more_than_batches_and_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert [usable_workers(wanted, 100) for wanted in (0, 3, 8)] == [0, 3, 4]
    assert usable_workers(8, 2) == 2


def told_niceness(niceness: int) -> int:
    start_worker(0, niceness=niceness)
    return os.nice(0)


def test_a_worker_lets_others_go_first_when_it_is_told_to() -> None:
    own = os.nice(0)
    for niceness, expected in ((0, own), (3, min(own + 3, 19))):
        with get_context("spawn").Pool(1) as pool:
            assert pool.apply(told_niceness, (niceness,)) == expected
