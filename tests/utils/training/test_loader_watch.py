"""The loader's advice: when, once per run, and with which remedy."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.utils.datasets.drawn import drawn_index
from tests.utils.training.test_engine import toy_state
from utils.datasets.batch_loader import BatchShape
from utils.datasets.loading_times import WaitTimes
from utils.options.train_options import TrainOptions
from utils.training import loader_watch
from utils.training.data import TrainingData
from utils.training.loader_watch import LoaderWatch

SIZES = [(64, 64), (48, 64)]
CACHED = 2 * (640 * 640 + 480 * 640) * 3  # training and validation, bytes


def watch_of(folder: Path, *, decoding: float, workers: int = 2, **options: Any) -> LoaderWatch:
    """A watch in an epoch of 40 s, 10 of them waiting."""
    waiting = WaitTimes()
    waiting.batches, waiting.total, waiting.waited = 20, 40.0, 10.0
    samples = SimpleNamespace(decoding_percent=decoding)
    batch = BatchShape(16, 480, 640)
    loader: Any = SimpleNamespace(
        waiting=waiting, sample_times=samples, workers=workers, largest_batch=batch
    )
    index = drawn_index(folder, SIZES)
    data = TrainingData(("a",), index, index)
    return LoaderWatch(loader, data, TrainOptions(**options), processes=1)


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processors, and plenty of room."""
    monkeypatch.setattr(loader_watch, "processors", lambda: 2)
    monkeypatch.setattr(loader_watch, "GIB", CACHED / 4.1)
    monkeypatch.setattr(loader_watch, "free_disk", lambda _: 10 * CACHED)
    monkeypatch.setattr(loader_watch, "cache_room", lambda: 10 * CACHED)


SLOW = "All processors load data already; train with smaller images or a faster CPU."
RESUME = " Resume with this; the results stay the same."


@pytest.mark.parametrize(
    ("settings", "disk", "memory", "advice"),
    [
        ({}, 10, 10, "Decoding takes 71 % of a sample: --cache disk needs 4.1 GiB." + RESUME),
        ({}, 1, 10, "Decoding takes 71 % of a sample: --cache ram needs 4.1 GiB." + RESUME),
        (
            *({}, 1, 1),
            "Decoding takes 71 % of a sample: a cache needs 4.1 GiB, more than is free." + RESUME,
        ),
        ({"cache": "ram"}, 10, 10, SLOW),
        ({"decoding": 40.0}, 10, 10, SLOW),
        (
            *({"decoding": 40.0, "workers": 0}, 10, 10),
            "--workers 2 uses all processors instead of 0." + RESUME,
        ),
    ],
)
def test_advice_names_the_remedy_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    settings: dict[str, Any],
    disk: int,
    memory: int,
    advice: str,
) -> None:
    monkeypatch.setattr(loader_watch, "free_disk", lambda _: disk * CACHED)
    monkeypatch.setattr(loader_watch, "cache_room", lambda: memory * CACHED)
    watch = watch_of(tmp_path, **{"decoding": 71.0, **settings})
    watch(toy_state())
    watch(toy_state())
    assert caplog.messages == [f"Training waits for data 25 % of the time. {advice}"]


@pytest.mark.parametrize(
    "change", [{"batches": 19}, {"total": 29.0}, {"waited": 8.0}], ids=["few", "short", "quick"]
)
def test_no_advice_without_need(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: dict[str, float]
) -> None:
    watch = watch_of(tmp_path, decoding=71.0)
    vars(watch.loader.waiting).update(change)
    watch(toy_state())
    assert caplog.messages == []
