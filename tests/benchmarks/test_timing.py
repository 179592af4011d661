"""Turns, spreads and parts; nothing here depends on how long anything takes."""

import pytest
import torch

from benchmarks.timing import PartTimes, PeakMemory, Results, Spread, by_turns

CPU = torch.device("cpu")


def test_variants_are_measured_by_turns_and_warm_up_does_not_count() -> None:
    order: list[str] = []

    def a() -> Results:
        order.append("a")
        return {"work": float(len(order))}

    def b() -> Results:
        order.append("b")
        return {"work": 1.0, "more": 2.0}

    found = by_turns({"A": a, "B": b}, rounds=3, warm_up=1)
    assert "".join(order) == "abababab"
    assert found == {  # a is called as number 1, which is the warm-up, then as 3, 5 and 7
        "A": {"work": Spread(5.0, 3.0, 7.0)},
        "B": {"work": Spread(1.0, 1.0, 1.0), "more": Spread(2.0, 2.0, 2.0)},
    }


def test_parts_of_the_same_name_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.5, 11.5, 13.5])
    monkeypatch.setattr("benchmarks.timing.time.perf_counter", lambda: next(clock))
    parts = PartTimes(CPU)
    for name in ("begin", "forward", "loss", "forward"):
        parts.mark(name)
    assert parts.milliseconds() == {"forward": 2500.0, "loss": 1000.0}
    assert parts.milliseconds() == {}


def test_peak_memory_sees_what_was_there_for_a_while() -> None:
    before = PeakMemory(CPU).megabytes()
    memory = PeakMemory(CPU)
    torch.ones(50_000_000).sum()
    assert memory.megabytes() > before + 100


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_events_of_a_gpu() -> None:
    parts = PartTimes(torch.device("cuda"))
    parts.mark("begin")
    torch.ones(10, device="cuda").sum()
    parts.mark("sum")
    assert list(parts.milliseconds()) == ["sum"]
