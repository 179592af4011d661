"""A run with three seams has one folder, history and plan; an edit of the plan is an error."""

import csv
import json
import math
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import read_checkpoint, save_checkpoint
from tests.paths import ROOT
from tests.toy import toy_arguments
from tests.utils.plots.test_run_curves import ink
from train import show_plan, train
from utils.checkpoint.format import plan_digest
from utils.errors import UserError
from utils.history import COLUMNS, new_row, read_results
from utils.options.parser import parse_request
from utils.runs.resume import load_resume_point
from utils.solver.schedule import Plan, base_segment

BATCHES = 10  # per epoch: the warm-up, iterations 0 to 100, ends in epoch 10
LR0 = 0.01
FACTORS = [
    *(1 - 0.99 * epoch / 11 for epoch in range(11)),  # linear down to 0.1 in epoch 10
    *(0.1, 0.45, 0.8),  # rebase, two epochs up to a peak of 0.8
    *(0.8, 0.8, 0.404, 0.008),  # hold, cooled down to 0.8 * 0.01 in two epochs
    *(1 - 0.99 * epoch / 21 for epoch in (18, 19, 20)),  # restart: linear over all 21 epochs
]


def extended(run: Path, extra: int, how: str) -> Path:
    more = ["--extend-epochs", str(extra), "--seam-epochs", "2", *shlex.split(how)]
    return train(parse_request(["--resume", str(run), *more]))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 11 epochs that was extended by 3, 4 and 3 epochs."""
    folder = tmp_path_factory.mktemp("chain")
    how = "--epochs 11 --batch-size 1 --nominal-batch-size 4 --name chain"
    run = train(parse_request(toy_arguments(folder, how)))
    extended(run, 3, "--lr-continuation rebase --peak 0.8 --rewarm-epochs 2 --noplots")
    extended(run, 4, "--lr-continuation hold --cooldown-epochs 2 --noplots")
    return extended(run, 3, "--lr-continuation restart")


def test_history_is_complete_and_its_rates_follow_the_plan(chain: Path) -> None:
    plan = Plan.from_dict(read_checkpoint(chain / "weights" / "last.pt")["plan"])
    assert plan.factors() == pytest.approx(FACTORS, abs=1e-12)
    rows = read_results(chain / "results.csv")
    assert [row["epoch"] for row in rows] == list(range(21))
    assert all(row.keys() == set(COLUMNS) for row in rows)
    assert all(math.isfinite(value) for row in rows for value in row.values())
    for epoch, row in enumerate(rows):
        rates = [row[f"x/lr{group}"] for group in range(3)]
        applied = plan.settings(epoch, BATCHES * (epoch + 1) - 1).rates
        assert rates == pytest.approx(applied, rel=1e-4)  # results.csv has five digits
        if epoch >= 10:
            assert rates == pytest.approx([LR0 * FACTORS[epoch]] * 3, rel=1e-4)


def test_every_seam_is_reported_and_plotted(chain: Path) -> None:
    report = json.loads((chain / "seams.json").read_text())
    assert [(seam["epoch"], seam["mode"], seam["epochs"]) for seam in report["seams"]] == [
        (11, "rebase", 3),
        (14, "hold", 4),
        (18, "restart", 3),
    ]
    assert [seam["ratio"] for seam in report["seams"]] == pytest.approx([1, 1, FACTORS[18] / 0.008])
    assert all(seam["raw_lowest"] is not None for seam in report["seams"])
    assert [(c["epoch"], c["kind"]) for c in report["continuations"]] == [
        (11, "extended"),
        (14, "extended"),
        (18, "extended"),
    ]
    assert all(c["check"]["reproduced"] for c in report["continuations"])
    assert {file.name for file in (chain / "weights").glob("seam_*.pt")} == {
        "seam_11.pt",
        "seam_14.pt",
        "seam_18.pt",
    }
    assert ink(chain / "lr_map.png") > 0.3


def test_chain_is_compared_with_its_earlier_checkpoint(chain: Path, tmp_path: Path) -> None:
    runs = [str(chain), str(chain / "weights" / "seam_14.pt")]
    done = subprocess.run(
        [sys.executable, "-m", "utils.tools.compare", *runs, "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "compare.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["run"], row["seam_epoch"], row["mode"], row["epochs"]) for row in rows] == [
        ("chain", "11", "rebase", "21"),
        ("chain", "14", "hold", "21"),
        ("chain", "18", "restart", "21"),
        ("seam_14", "11", "rebase", "14"),
    ]
    assert "gain/100 epochs" in done.stdout + done.stderr
    assert ink(tmp_path / "compare.png") > 0.3


def test_plan_of_the_next_extension(chain: Path) -> None:
    request = ["--resume", str(chain), "--extend-epochs", "4", "--plan"]
    assert show_plan(parse_request(request)).resolve() == chain
    plans = json.loads((chain / "lr_plan.json").read_text())
    assert plans["rebase"][:21] == pytest.approx(FACTORS, abs=1e-12)
    assert ink(chain / "lr_plan.png") > 0.3


def thousands_of_epochs(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint of a run that completed 1712 of 5000 epochs as planned."""
    start = Plan.from_dict(checkpoint["plan"])
    plan = Plan(LR0, start.momentum, 4, start.warmup, (base_segment(5000, "linear", 0.01),))
    history = [
        new_row(
            epoch,
            train_losses=(0.1, 0.1, 0.1),
            metrics=(0.5, 0.5, 0.5, 0.5),
            val_losses=(0.1, 0.1, 0.1),
            rates=plan.settings(epoch, BATCHES * (epoch + 1) - 1).rates,
            iteration=BATCHES * (epoch + 1),
        )
        for epoch in range(1712)
    ]
    position = {"epoch": len(history), "iteration": BATCHES * len(history)}
    return {
        **checkpoint,
        "plan": plan.to_dict(),
        "plan_digest": plan_digest(plan.to_dict()),
        "history": history,
        "position": position,
    }


def test_plan_edited_from_5000_to_9000_epochs_is_an_error_before_any_step(
    chain: Path, tmp_path: Path
) -> None:
    checkpoint = thousands_of_epochs(read_checkpoint(chain / "weights" / "seam_11.pt"))
    file = tmp_path / "last.pt"
    how = ["--resume", str(file), "--project", str(tmp_path), "--name", "x"]
    save_checkpoint(checkpoint, file)
    resume_point = load_resume_point(file, parse_request(how))
    assert (resume_point.completed, resume_point.plan.total_epochs) == (1712, 5000)

    text = json.dumps(checkpoint["plan"]).replace("5000", "9000")
    save_checkpoint({**checkpoint, "plan": json.loads(text)}, file)
    for more in ([], ["--extend-epochs", "10"], ["--extend-epochs", "10", "--plan"]):
        with pytest.raises(
            UserError,
            match=r"epoch 1 was trained .* 9000 epochs .* the recorded rates are those of 5000 "
            r"epochs .* the planned total was changed from 5000 to 9000 epochs",
        ):
            train(parse_request([*how, *more]))
    assert not (tmp_path / "x").exists()


def test_plan_edit_that_no_recorded_rate_shows_is_an_error(chain: Path, tmp_path: Path) -> None:
    # The rate of the first epoch does not depend on the planned total.
    checkpoint = thousands_of_epochs(read_checkpoint(chain / "weights" / "seam_11.pt"))
    checkpoint |= {"history": checkpoint["history"][:1]}
    checkpoint |= {"position": {"epoch": 1, "iteration": BATCHES}}
    file = tmp_path / "last.pt"
    how = ["--resume", str(file), "--project", str(tmp_path), "--name", "x"]
    save_checkpoint(checkpoint, file)
    assert load_resume_point(file, parse_request(how)).completed == 1
    text = json.dumps(checkpoint["plan"]).replace("5000", "9000")
    save_checkpoint({**checkpoint, "plan": json.loads(text)}, file)
    with pytest.raises(UserError, match=r"was edited after the run saved it: it now has 9000 epo"):
        train(parse_request(how))
