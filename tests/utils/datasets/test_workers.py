import os
from multiprocessing import get_context

import pytest

from utils.datasets.workers import start_worker, usable_workers


def test_workers_are_limited_by_processors_and_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.datasets.workers.processors", lambda: 4)
    assert [usable_workers(wanted, 100) for wanted in (0, 3, 8)] == [0, 3, 4]
    assert usable_workers(8, 2) == 2


def test_workers_of_a_machine_are_divided_by_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.datasets.workers.processors", lambda: 32)
    wanted = (0, 1, 8, 15, 64)
    assert [usable_workers(n, 100, processes=4) for n in wanted] == [0, 1, 2, 3, 8]
    monkeypatch.setattr("utils.datasets.workers.processors", lambda: 2)
    assert [usable_workers(n, 100, processes=4) for n in wanted] == [0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("count", "processes", "gpu", "cpu"),
    [(1, 1, 1, 1), (2, 1, 1, 1), (8, 1, 7, 2), (64, 1, 8, 8), (32, 8, 3, 1), (128, 8, 8, 4)],
)
def test_default_workers(
    monkeypatch: pytest.MonkeyPatch, count: int, processes: int, gpu: int, cpu: int
) -> None:
    monkeypatch.setattr("utils.datasets.workers.processors", lambda: count)
    found = [usable_workers(None, 99, processes=processes, for_gpu=g) for g in (True, False)]
    assert found == [gpu, cpu]
    assert usable_workers(None, 1, processes=processes, for_gpu=True) == 1


def worker_niceness(niceness: int) -> int:
    start_worker(0, niceness=niceness)
    return os.nice(0)


def test_worker_niceness() -> None:
    own = os.nice(0)
    for niceness, expected in ((0, own), (3, min(own + 3, 19))):
        with get_context("spawn").Pool(1) as pool:
            assert pool.apply(worker_niceness, (niceness,)) == expected
