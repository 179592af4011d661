"""Interleaving, spreads and parts; no test depends on real durations."""

import pytest
import torch

from benchmarks.timing import Measurements, PartTimes, PeakMemory, Spread, measure_interleaved

CPU = torch.device("cpu")


def test_variants_are_interleaved_and_warm_up_is_discarded() -> None:
    order: list[str] = []

    def a() -> Measurements:
        order.append("a")
        return {"work": float(len(order))}

    def b() -> Measurements:
        order.append("b")
        return {"work": 1.0, "more": 2.0}

    found = measure_interleaved({"A": a, "B": b}, rounds=3, warm_up=1)
    assert "".join(order) == "abababab"
    assert found == {  # a is call 1, the warm-up, then calls 3, 5 and 7
        "A": {"work": Spread(5.0, 3.0, 7.0)},
        "B": {"work": Spread(1.0, 1.0, 1.0), "more": Spread(2.0, 2.0, 2.0)},
    }


def test_parts_with_equal_names_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.5, 11.5, 13.5])
    monkeypatch.setattr("benchmarks.timing.time.perf_counter", lambda: next(clock))
    parts = PartTimes(CPU)
    for name in ("begin", "forward", "loss", "forward"):
        parts.mark(name)
    assert parts.milliseconds() == {"forward": 2500.0, "loss": 1000.0}
    assert parts.milliseconds() == {}


def test_peak_memory_includes_freed_memory() -> None:
    before = PeakMemory(CPU).megabytes()
    memory = PeakMemory(CPU)
    torch.ones(50_000_000).sum()
    assert memory.megabytes() > before + 100


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_parts_on_a_gpu() -> None:
    parts = PartTimes(torch.device("cuda"))
    parts.mark("begin")
    torch.ones(10, device="cuda").sum()
    parts.mark("sum")
    assert list(parts.milliseconds()) == ["sum"]
