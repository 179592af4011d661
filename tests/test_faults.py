"""The kill campaign of benchmarks/faults.py: a short campaign, and detection of faults."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.faults import summary, table
from benchmarks.kill_campaign import Campaign, Kill, Moment, Outcome, draw_moments, is_due
from benchmarks.run_files import ABSENT, Saved, Settings, compare_runs, differences, inspect
from benchmarks.watched_run import Phase, Sight, mean_durations
from tests.paths import ROOT
from tests.toy import toy_arguments
from utils.errors import UserError

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
EQUAL: dict[str, list[str]] = {"weights": [], "results.csv": []}
WHOLE = Saved("whole", epoch=1, iteration=9)
DAMAGED = Saved("damaged")


def test_run_killed_at_random_moments_equals_uninterrupted_run(tmp_path: Path) -> None:
    # This seed kills in the first of six epochs, so that a late kill still finds a running process.
    arguments = toy_arguments(tmp_path / "toy", "--epochs 6 --save-steps 2 --multi-scale")
    outcome = Campaign(arguments, tmp_path, ONE_THREAD).run(kills=2, seed=102)
    assert outcome.failure == ""
    assert outcome.differences == {
        "weights": [],
        "EMA": [],
        "momentum": [],
        "rest of last.pt": [],
        "best.pt": [],
        "results.csv": [],
    }
    assert (outcome.epochs, outcome.batches, outcome.settings.save_steps) == (6, 3, 2)
    assert len(outcome.kills) == outcome.resumes == 2
    assert [kill.last.state for kill in outcome.kills] == ["whole"] * 2
    # A save starts after the previous one is done, so at most two periods are lost.
    assert all(kill.reached > 0 and kill.lost <= 2 * 2 for kill in outcome.kills)
    assert summary(outcome, 2)["passed"] is True


def test_failing_training_command_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unrecognized arguments: --no-such-option"):
        Campaign(["--no-such-option"], tmp_path, ONE_THREAD).run(kills=1, seed=0)


def test_kill_moments_are_sorted() -> None:
    moments = draw_moments(np.random.default_rng([0]), 40, epochs=4, batches=5, save_steps=2)
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
    ("moment", "sight", "due"),
    [
        ((7, Phase.SAVING), (Phase.TRAINING, 6), False),
        ((7, Phase.SAVING), (Phase.SAVING, 6), False),
        ((7, Phase.SAVING), (Phase.TRAINING, 7), False),
        ((7, Phase.SAVING), (Phase.SAVING, 7), True),
        ((7, Phase.SAVING), (Phase.TRAINING, 8), True),  # missed
        ((7, Phase.SAVING), (Phase.STARTING, 8), False),  # but not before training starts again
        ((7, Phase.STARTING), (Phase.STARTING, 3), True),
        ((7, Phase.STARTING), (Phase.TRAINING, 3), True),  # missed
    ],
)
def test_kill_is_due_in_its_phase_or_right_after_it(
    moment: tuple[int, Phase], sight: tuple[Phase, int], due: bool
) -> None:
    assert is_due(Moment(*moment, wait=0.5), Sight(*sight)) == due


def test_durations_are_means() -> None:
    seen = [
        (0.0, Sight(Phase.STARTING, 0)),
        (4.0, Sight(Phase.TRAINING, 0)),
        (5.0, Sight(Phase.TRAINING, 1)),
        (7.0, Sight(Phase.SAVING, 1)),
        (7.5, Sight(Phase.VALIDATING, 2)),
    ]
    assert mean_durations(seen) == {
        Phase.STARTING: 4.0,
        Phase.TRAINING: 1.5,
        Phase.VALIDATING: 0.0,
        Phase.SAVING: 0.5,
        Phase.ENDING: 0.0,
    }


def flipped(data: bytes) -> bytes:
    middle = data.index(b"\x11" * 400) + 200
    return data[:middle] + b"\x10" + data[middle + 1 :]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda data: data, Saved("whole", epoch=2, iteration=7, closed=False)),
        (lambda data: data[: len(data) // 2], DAMAGED),
        (lambda _: b"", DAMAGED),
        (flipped, DAMAGED),
    ],
)
def test_damaged_file_is_detected(
    tmp_path: Path, change: Callable[[bytes], bytes], found: Saved
) -> None:
    file = tmp_path / "last.pt"
    assert inspect(file) == ABSENT
    weights = torch.full((1000,), 0x11, dtype=torch.uint8)
    position = {"epoch": 2, "iteration": 7}
    torch.save({"position": position, "closed": False, "weights": weights}, file)
    file.write_bytes(change(file.read_bytes()))
    assert inspect(file) == found


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
def test_differences_are_bit_exact(one: object, two: object, found: list[str]) -> None:
    assert differences(one, two, "x") == found


def run_files(folder: Path, **changed: Any) -> Path:
    """Write the files of a run that are compared, with minimal content."""
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
        ({"resumed": True}, None),  # records that differ between any two runs
        ({"last": {"model": {"w": torch.ones(2)}}}, "weights"),
        ({"last": {"ema": {"weights": {"w": torch.zeros(2)}, "updates": 4}}}, "EMA"),
        ({"last": {"optimizer": {"buffers": {}}}}, "momentum"),
        ({"last": {"best": {"epoch": 1}}}, "rest of last.pt"),
        ({"best": 1}, "best.pt"),
        ({"results": "epoch\n0\n0\n"}, "results.csv"),
    ],
)
def test_difference_is_reported_by_part(
    tmp_path: Path, changed: dict[str, Any], part: str | None
) -> None:
    found = compare_runs(run_files(tmp_path), run_files(tmp_path, **changed))
    assert [name for name, where in found.items() if where] == ([part] if part else [])


@pytest.mark.parametrize(
    ("last", "previous", "remaining", "lost"),
    [
        (WHOLE, ABSENT, WHOLE, 2),
        (DAMAGED, WHOLE, WHOLE, 2),
        (ABSENT, WHOLE, WHOLE, 2),
        (DAMAGED, ABSENT, DAMAGED, 11),  # the run exists but cannot be resumed
        (ABSENT, ABSENT, ABSENT, 11),
    ],
)
def test_remaining_checkpoint_is_resumed(
    last: Saved, previous: Saved, remaining: Saved, lost: int
) -> None:
    kill = Kill(Phase.SAVING, Phase.SAVING, reached=11, last=last, previous=previous)
    assert (kill.remaining, kill.lost) == (remaining, lost)


def outcome_of(last: Saved, previous: Saved, **more: Any) -> Outcome:
    kill = Kill(Phase.SAVING, Phase.TRAINING, reached=11, last=last, previous=previous)
    settings = Settings(save_steps=2, workers=1, precision="fp32")
    return Outcome(settings, epochs=3, batches=9, kills=[kill], resumes=1, **more)


@pytest.mark.parametrize(
    ("outcome", "wanted", "passed"),
    [
        (outcome_of(WHOLE, WHOLE, differences=EQUAL), 1, True),
        (outcome_of(DAMAGED, WHOLE, differences=EQUAL), 1, True),
        (outcome_of(DAMAGED, DAMAGED, differences=EQUAL), 1, False),
        (outcome_of(WHOLE, WHOLE, differences=EQUAL), 2, False),
        (outcome_of(WHOLE, WHOLE, differences=EQUAL | {"EMA": ["ema/w"]}), 1, False),
        (outcome_of(WHOLE, WHOLE, failure="error: no space"), 1, False),
    ],
)
def test_campaign_passes_only_without_faults(outcome: Outcome, wanted: int, passed: bool) -> None:
    assert summary(outcome, wanted)["passed"] is passed


def test_table_contains_all_results() -> None:
    different = {"weights": ["model/w"], "results.csv": []}
    figures = summary(outcome_of(DAMAGED, WHOLE, differences=different), 1)
    assert table(figures).splitlines() == [
        "workers                       1",
        "precision                     fp32",
        "epochs                        3",
        "batches per epoch             9",
        "saved every so many batches   2",
        "kills                         1",
        "kills while                   training 1",
        "resumes                       1",
        "begun anew                    0",
        "batches lost                  2",
        "batches lost at most at once  2",
        "last.pt found damaged         1",
        "without a good last_prev.pt   0",
        "weights equal                 no",
        "results.csv equal             yes",
        "first differences             model/w",
        "passed                        no",
    ]


def test_script_runs_from_any_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "faults.py"), "--kills", "0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--kills and --threads are at least 1" in done.stderr
