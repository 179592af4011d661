"""The kill campaign of benchmarks/faults.py: a short campaign, and the detection of faults."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.faults import summary, table
from benchmarks.kill_campaign import Campaign, CampaignResult, Kill, Moment, is_due, sample_moments
from benchmarks.run_files import (
    MISSING,
    CheckpointStatus,
    Settings,
    compare_runs,
    find_differences,
    inspect_checkpoint,
)
from benchmarks.watched_run import Observation, Phase, mean_durations
from tests.paths import ROOT
from tests.toy import toy_arguments
from utils.errors import UserError

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
EQUAL: dict[str, list[str]] = {"weights": [], "results.csv": []}
INTACT = CheckpointStatus("intact", epoch=1, iteration=9)
DAMAGED = CheckpointStatus("damaged")


def test_run_killed_at_random_moments_equals_uninterrupted_run(tmp_path: Path) -> None:
    # This seed selects the first epochs of six, so that the run still exists if a kill is late.
    arguments = toy_arguments(tmp_path / "toy", "--epochs 6 --save-steps 2 --multi-scale")
    result = Campaign(arguments, tmp_path, ONE_THREAD).run(kills=2, seed=102)
    assert result.failure == ""
    assert result.differences == {
        "weights": [],
        "EMA": [],
        "momentum": [],
        "rest of last.pt": [],
        "best.pt": [],
        "results.csv": [],
    }
    assert (result.epochs, result.batches, result.settings.save_steps) == (6, 3, 2)
    assert len(result.kills) == result.resumes == 2
    assert [kill.last.state for kill in result.kills] == ["intact"] * 2
    # A save starts when the previous one is done, so at most two save intervals are lost.
    assert all(kill.batches > 0 and kill.lost <= 2 * 2 for kill in result.kills)
    assert summary(result, 2)["passed"] is True


def test_failing_uninterrupted_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unrecognized arguments: --no-such-option"):
        Campaign(["--no-such-option"], tmp_path, ONE_THREAD).run(kills=1, seed=0)


def test_moments_are_sorted_in_the_order_of_a_run() -> None:
    moments = sample_moments(np.random.default_rng([0]), 40, epochs=4, batches=5, save_steps=2)
    assert [m.batches for m in moments] == sorted(m.batches for m in moments)
    at = {phase: {m.batches for m in moments if m.phase is phase} for phase in Phase}
    assert {phase: sum(m.phase is phase for m in moments) for phase in Phase} == {
        Phase.STARTING: 4,
        Phase.TRAINING: 12,
        Phase.VALIDATING: 8,
        Phase.SAVING: 12,
        Phase.ENDING: 4,
    }
    assert at[Phase.VALIDATING] <= {5, 10, 15, 20}
    assert at[Phase.SAVING] <= {*range(2, 20, 2), 5, 15, 20}
    assert at[Phase.SAVING] & {5, 15, 20}
    assert at[Phase.TRAINING] <= set(range(20))
    assert at[Phase.ENDING] == {20}


@pytest.mark.parametrize(
    ("moment", "observation", "due"),
    [
        ((7, Phase.SAVING), (Phase.TRAINING, 6), False),
        ((7, Phase.SAVING), (Phase.SAVING, 6), False),
        ((7, Phase.SAVING), (Phase.TRAINING, 7), False),
        ((7, Phase.SAVING), (Phase.SAVING, 7), True),
        ((7, Phase.SAVING), (Phase.TRAINING, 8), True),  # missed
        ((7, Phase.SAVING), (Phase.STARTING, 8), False),  # but not until it trains again
        ((7, Phase.STARTING), (Phase.STARTING, 3), True),
        ((7, Phase.STARTING), (Phase.TRAINING, 3), True),  # missed
    ],
)
def test_kill_is_due_in_its_phase_or_right_after_it(
    moment: tuple[int, Phase], observation: tuple[Phase, int], due: bool
) -> None:
    assert is_due(Moment(*moment, wait=0.5), Observation(*observation)) == due


def test_mean_durations_by_phase() -> None:
    seen = [
        (0.0, Observation(Phase.STARTING, 0)),
        (4.0, Observation(Phase.TRAINING, 0)),
        (5.0, Observation(Phase.TRAINING, 1)),
        (7.0, Observation(Phase.SAVING, 1)),
        (7.5, Observation(Phase.VALIDATING, 2)),
    ]
    assert mean_durations(seen) == {
        Phase.STARTING: 4.0,
        Phase.TRAINING: 1.5,
        Phase.VALIDATING: 0.0,
        Phase.SAVING: 0.5,
        Phase.ENDING: 0.0,
    }


def with_flipped_bit(data: bytes) -> bytes:
    middle = data.index(b"\x11" * 400) + 200
    return data[:middle] + b"\x10" + data[middle + 1 :]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda data: data, CheckpointStatus("intact", epoch=2, iteration=7, finalized=False)),
        (lambda data: data[: len(data) // 2], DAMAGED),
        (lambda _: b"", DAMAGED),
        (with_flipped_bit, DAMAGED),
    ],
)
def test_damaged_checkpoint_is_detected(
    tmp_path: Path, change: Callable[[bytes], bytes], found: CheckpointStatus
) -> None:
    file = tmp_path / "last.pt"
    assert inspect_checkpoint(file) == MISSING
    weights = torch.full((1000,), 0x11, dtype=torch.uint8)
    position = {"epoch": 2, "iteration": 7}
    torch.save({"position": position, "closed": False, "weights": weights}, file)
    file.write_bytes(change(file.read_bytes()))
    assert inspect_checkpoint(file) == found


@pytest.mark.parametrize(
    ("one", "two", "found"),
    [
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")]), []),
        (torch.tensor([0.0]), torch.tensor([-0.0]), ["x"]),
        (torch.zeros(2), torch.zeros(1, 2), ["x"]),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32), ["x"]),
        (torch.zeros(2), None, ["x"]),
        (float("nan"), float("nan"), []),
        (1, 1.0, ["x"]),
        ({"a": [1, 2], "b": 3}, {"a": [1, 4], "b": 5}, ["x/a/1", "x/b"]),
        ([1], [1, 2], ["x"]),
        ({"a": 1}, {"b": 1}, ["x"]),
    ],
)
def test_find_differences_compares_every_bit(one: object, two: object, found: list[str]) -> None:
    assert find_differences(one, two, "x") == found


def write_run(folder: Path, **changed: Any) -> Path:
    """Write the files of a run that are compared, with minimal content; return its folder."""
    run = folder / ("one" if not changed else "two")
    last = {
        "model": {"w": torch.zeros(2)},
        "ema": {"weights": {"w": torch.zeros(2)}, "updates": 3},
        "optimizer": {"buffers": {"momentum_buffer": {"w": torch.zeros(2)}}},
        "best": {"epoch": 0},
        "continuations": [] if not changed else [{"kind": "resumed"}],
        "config": {"options": {"name": run.name}},
    }
    (run / "weights").mkdir(parents=True)
    torch.save({**last, **changed.get("last", {})}, run / "weights" / "last.pt")
    torch.save({"weights": changed.get("best", 0)}, run / "weights" / "best.pt")
    (run / "results.csv").write_text(changed.get("results", "epoch\n0\n"))
    return run


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"resumed": True}, None),  # runs differ in this
        ({"last": {"model": {"w": torch.ones(2)}}}, "weights"),
        ({"last": {"ema": {"weights": {"w": torch.zeros(2)}, "updates": 4}}}, "EMA"),
        ({"last": {"optimizer": {"buffers": {}}}}, "momentum"),
        ({"last": {"best": {"epoch": 1}}}, "rest of last.pt"),
        ({"best": 1}, "best.pt"),
        ({"results": "epoch\n0\n0\n"}, "results.csv"),
    ],
)
def test_difference_is_reported_for_its_part(
    tmp_path: Path, changed: dict[str, Any], part: str | None
) -> None:
    found = compare_runs(write_run(tmp_path), write_run(tmp_path, **changed))
    assert [name for name, where in found.items() if where] == ([part] if part else [])


@pytest.mark.parametrize(
    ("last", "previous", "remaining", "lost"),
    [
        (INTACT, MISSING, INTACT, 2),
        (DAMAGED, INTACT, INTACT, 2),
        (MISSING, INTACT, INTACT, 2),
        (DAMAGED, MISSING, DAMAGED, 11),  # the run exists and cannot resume
        (MISSING, MISSING, MISSING, 11),
    ],
)
def test_run_resumes_from_last_else_from_previous(
    last: CheckpointStatus, previous: CheckpointStatus, remaining: CheckpointStatus, lost: int
) -> None:
    kill = Kill(Phase.SAVING, Phase.SAVING, batches=11, last=last, previous=previous)
    assert (kill.resume_from, kill.lost) == (remaining, lost)


def result_of(last: CheckpointStatus, previous: CheckpointStatus, **more: Any) -> CampaignResult:
    kill = Kill(Phase.SAVING, Phase.TRAINING, batches=11, last=last, previous=previous)
    settings = Settings(save_steps=2, workers=1, precision="fp32")
    return CampaignResult(settings, epochs=3, batches=9, kills=[kill], resumes=1, **more)


@pytest.mark.parametrize(
    ("result", "requested", "passed"),
    [
        (result_of(INTACT, INTACT, differences=EQUAL), 1, True),
        (result_of(DAMAGED, INTACT, differences=EQUAL), 1, True),
        (result_of(DAMAGED, DAMAGED, differences=EQUAL), 1, False),
        (result_of(INTACT, INTACT, differences=EQUAL), 2, False),
        (result_of(INTACT, INTACT, differences=EQUAL | {"EMA": ["ema/w"]}), 1, False),
        (result_of(INTACT, INTACT, failure="error: no space"), 1, False),
    ],
)
def test_campaign_passes_only_without_faults(
    result: CampaignResult, requested: int, passed: bool
) -> None:
    assert summary(result, requested)["passed"] is passed


def test_table_lists_all_values() -> None:
    different = {"weights": ["model/w"], "results.csv": []}
    report = summary(result_of(DAMAGED, INTACT, differences=different), 1)
    assert table(report).splitlines() == [
        "workers                       1",
        "precision                     fp32",
        "epochs                        3",
        "batches per epoch             9",
        "saved every so many batches   2",
        "kills                         1",
        "kills while                   training 1",
        "resumes                       1",
        "begun from scratch            0",
        "batches lost                  2",
        "batches lost at most at once  2",
        "last.pt found damaged         1",
        "without a good last_prev.pt   0",
        "weights equal                 no",
        "results.csv equal             yes",
        "first differences             model/w",
        "passed                        no",
    ]


def test_program_runs_as_a_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "faults.py"), "--kills", "0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--kills 0: must be at least 1" in done.stderr
