"""Waiting and decoding are measured in all processes, with an exact clock."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.utils.datasets.drawn import drawn_index
from tests.utils.datasets.test_loader import SIZES, train_loader
from utils.datasets.loading_times import DECODING, SAMPLE, SampleTimes, WaitTimes


class Clock:
    """A clock that stands still until it is advanced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("utils.datasets.loading_times.time.perf_counter", lambda: self.now)

    def batches(self, *waits: float) -> Iterator[Any]:
        """Yield a batch after each wait, s."""
        for wait in waits:
            self.now += wait
            yield wait


def test_waiting_is_what_passes_between_request_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, times = Clock(monkeypatch), WaitTimes()
    assert times.percent == 0.0
    for waits, expected in (((4.0, 1.0, 1.0), 50.0), ((0.0, 1.0), 20.0)):
        for _ in times.measure(clock.batches(*waits)):
            clock.now += 2.0  # a training step
        assert times.batches == len(waits)
        assert times.percent == expected


def test_an_interrupted_epoch_counts_to_its_last_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, times = Clock(monkeypatch), WaitTimes()
    batches = times.measure(clock.batches(1.0, 1.0, 1.0))
    next(batches)
    clock.now += 3.0
    next(batches)
    assert (times.waited, times.total) == (2.0, 4.0)


def test_decoding_is_a_part_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, times = Clock(monkeypatch), SampleTimes(0)
    assert times.decoding_percent == 0.0
    with times.measure(SAMPLE):
        clock.now += 1.0
        with times.measure(DECODING):
            clock.now += 3.0
    assert times.decoding_percent == 75.0


@pytest.mark.parametrize(("cache", "workers"), [(None, 0), (None, 2), ("ram", 0)])
def test_loading_processes_measure_decoding(tmp_path: Path, cache: str, workers: int) -> None:
    loader = train_loader(drawn_index(tmp_path, SIZES), workers=workers, cache=cache)
    list(loader.batches(0))
    seconds: torch.Tensor = loader.sample_times._seconds
    assert (seconds[:, 0] > 0).all()
    assert (loader.sample_times.decoding_percent > 0) is (cache is None)
    assert loader.sample_times.decoding_percent < 100
    assert loader.waiting.batches == len(loader)
