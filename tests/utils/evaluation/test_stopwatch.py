import time

import pytest
import torch

from utils.evaluation.stopwatch import Stopwatch


def test_only_what_is_inside_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([1.0, 1.5, 10.0, 12.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(readings))
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch:
            pass
    assert watch.seconds == 2.5
