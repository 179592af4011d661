"""benchmarks/device.py: a run on the CPU, and that its checks fail where they should."""

import json
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import device, device_parity, device_runs, device_speed
from benchmarks.device_parity import ONE_BOX, ROUNDING, Computed, compared
from benchmarks.report import Check
from tests.toy import make_toy, make_toy_model

CPU, GPU = torch.device("cpu"), torch.device("cuda")
NAN = math.nan
EQUAL = Computed(*[torch.ones(4)] * len(Computed._fields))


def run_program(options: list[object], file: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    words = [*map(str, options), "--device", "cpu", "--json", str(file)]
    monkeypatch.setattr("sys.argv", ["device", *words])
    device.main()
    return json.loads(file.read_text(encoding="utf-8"))


def test_all_checks_hold_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--data", make_toy(tmp_path), "--cfg", make_toy_model(tmp_path), "--imgsz", 64]
    options += ["--batch-size", 4, "--workers", 0]
    written = run_program(options, tmp_path / "results.json", monkeypatch)
    assert written["passed"]
    verdicts: dict[str, list[str]] = {}
    for check in written["checks"]:
        title, _, _ = check["name"].partition(": ")
        verdicts.setdefault(check["verdict"], []).append(title)
        assert (check["verdict"] == "skipped") == (check["value"] is None)
        if check["verdict"] == "skipped":
            assert "needs a GPU" in check["note"]
        elif title == "resume after SIGKILL":
            assert check["value"] == check["limit"] == 0  # bit for bit on a CPU
        elif title == "toy_model":
            assert check["value"] > 0
    assert verdicts["held"].count("resume after SIGKILL") == 3
    assert verdicts["held"].count("error in one of two processes") == 3
    assert verdicts["held"].count("parity") >= 4
    assert verdicts["measured"].count("toy_model") == 7
    assert verdicts["skipped"] == ["parity", "resume after SIGKILL", "toy_model"]


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (Check("", 1.0, 1.0), "held"),
        (Check("", 1.1, 1.0), "FAILED"),
        (Check("", NAN, 1.0), "FAILED"),
        (Check("", 7.0), "measured"),
        (Check("", None, note="needs a GPU"), "skipped"),
    ],
)
def test_verdict_of_a_check(check: Check, verdict: str) -> None:
    assert check.verdict == verdict
    assert json.loads(json.dumps(check.to_json(), allow_nan=False))["verdict"] == verdict


def test_failed_check_ends_with_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> list[Check]:
        raise RuntimeError("CUDA error: misaligned address\nmore")

    monkeypatch.setattr(device_parity, "check_parity", broken)
    monkeypatch.setattr(device_runs, "check_resume", lambda *_: [Check("weights", 0.0, 0.0)])
    monkeypatch.setattr(device_runs, "check_failure", lambda *_: [])
    monkeypatch.setattr(device_speed, "measure_model", lambda *_: [Check("images/s", 9.0)])
    with pytest.raises(SystemExit) as ended:
        run_program([], tmp_path / "results.json", monkeypatch)
    assert ended.value.code == 1
    written = json.loads((tmp_path / "results.json").read_text())
    assert [check["verdict"] for check in written["checks"]] == ["FAILED", "held", "measured"]
    assert written["checks"][0]["note"] == "CUDA error: misaligned address"
    assert written["passed"] is False
    assert "in broken" in capsys.readouterr().err


def verdicts_of(result: torch.Tensor, perturbed: float, precision: str = "fp32") -> list[str]:
    moved = Computed(*[torch.ones(4) + perturbed] * len(Computed._fields))
    whole = Computed(*[result] * len(Computed._fields))
    return [check.verdict for check in compared(precision, whole, moved, EQUAL)]


def test_parity_is_limited_by_the_distance_of_perturbed_weights() -> None:
    assert verdicts_of(torch.ones(4) + 0.39, 0.1) == ["held"] * 7
    assert verdicts_of(torch.ones(4) + 0.41, 0.1) == ["FAILED"] * 7
    assert verdicts_of(torch.full((4,), NAN), 0.1) == ["FAILED"] * 7
    assert verdicts_of(torch.ones(4) + 9, 0.3) == ["measured"] * 7  # no limit below that of zeros


def test_parity_has_a_floor_of_rounding_and_of_one_box() -> None:
    above_rounding = torch.ones(4, dtype=torch.double) + 1.1 * ROUNDING["bf16"]
    assert verdicts_of(above_rounding, 0.0, "bf16") == ["FAILED"] * 2 + ["held"] * 5
    assert pytest.approx(1 / math.sqrt(8 * 16)) == ONE_BOX
    assert verdicts_of(torch.ones(4) + 1.1 * ONE_BOX, 0.0) == ["FAILED"] * 7


def content(weight: float, momentum: float, **scaler: float) -> dict[str, Any]:
    buffers = {"momentum_buffer": [torch.tensor([momentum]), None], "step": torch.tensor([3])}
    weights = {"a": torch.tensor([weight, 2.0]), "n": torch.tensor(7)}
    return {"model": weights, "ema": weights, "optimizer": buffers, "scaler": scaler}


def test_resumed_run_is_compared_with_one_or_two_undisturbed_ones() -> None:
    def verdicts(*contents: dict[str, Any]) -> list[str]:
        return [check.verdict for check in device_runs.compare_ends(contents, 5)]

    undisturbed = content(1.0, 1.0, scale=4.0, tracker=9)
    again = content(1.1, 1.1, scale=4.0, tracker=9)
    resumed = content(1.3, 1.5, scale=4.0, tracker=2)
    held, failed = "held", "FAILED"
    assert verdicts(undisturbed, undisturbed) == [held] * 4
    assert verdicts(resumed, undisturbed) == [failed] * 4
    assert verdicts(resumed, undisturbed, again) == [held, held, failed, failed]
    assert verdicts(content(1.0, 1.0), content(1.0, 1.0)) == [held] * 3 + ["skipped"]


def test_failure_of_a_process_must_be_printed_once_and_leave_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchrun = tmp_path / "torchrun"
    torchrun.write_text(f"#!/bin/sh\necho {device_runs.SENTENCE}\necho {device_runs.SENTENCE}\n")
    torchrun.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(torchrun))
    seconds, messages, checkpoint = device_runs.check_failure([], tmp_path, CPU)
    assert seconds.verdict == "held"
    assert messages.verdict == checkpoint.verdict == "FAILED"
    assert messages.note.count(device_runs.SENTENCE) == 2
    torchrun.write_text("#!/bin/sh\necho no such option\n")
    seconds, messages, _ = device_runs.check_failure([], tmp_path, CPU)
    assert seconds.verdict == messages.verdict == "FAILED"


def test_synchronizations_are_counted_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def step() -> None:
        for name, line in (("loss.py", 7), ("loss.py", 7), ("engine.py", 9)):
            text = "called a synchronizing CUDA operation"
            warnings.warn_explicit(text, UserWarning, f"/models/{name}", line)
        warnings.warn("another one", stacklevel=1)

    found = device_speed.synchronizations(step, GPU)
    assert (found.value, found.note) == (3, "loss.py:7 (2), engine.py:9 (1)")
    assert modes == ["warn", "default"]


@pytest.mark.parametrize(("fits", "tried"), [(4, [16, 8, 4]), (0, [16, 8, 4, 2, 1])])
def test_batch_is_halved_until_it_fits(
    fits: int, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def measure(size: int, *_: object) -> list[Check]:
        sizes.append(size)
        if size > fits:
            raise torch.OutOfMemoryError("out of memory")
        return [Check("images/s", 9.0)]

    monkeypatch.setattr(device_speed, "_measure_batches_of", measure)
    [found] = device_speed.measure_model([], 16, GPU, 1, 0.0)
    assert (sizes, found.value) == (tried, 9.0 if fits else None)
