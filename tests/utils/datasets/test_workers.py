import os
from multiprocessing import get_context

import pytest

from utils.datasets.workers import start_worker, usable_workers


def test_workers_are_limited_by_processors_and_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert [usable_workers(wanted, 100) for wanted in (0, 3, 8)] == [0, 3, 4]
    assert usable_workers(8, 2) == 2


def worker_niceness(niceness: int) -> int:
    start_worker(0, niceness=niceness)
    return os.nice(0)


def test_worker_niceness() -> None:
    own = os.nice(0)
    for niceness, expected in ((0, own), (3, min(own + 3, 19))):
        with get_context("spawn").Pool(1) as pool:
            assert pool.apply(worker_niceness, (niceness,)) == expected
