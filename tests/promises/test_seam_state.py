"""The baseline of a seam, repeated extensions, and the files in a run folder."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import read_checkpoint
from tests.promises.test_extension import extension_of
from tests.promises.test_resume import differences, killed_after, resumed, same_run
from tests.toy import toy_arguments
from train import show_plan, train
from utils.errors import UserError
from utils.evaluation.evaluate import Evaluation, summarize
from utils.options.parser import parse_request
from utils.runs.run import open_run
from utils.solver.schedule import Plan
from utils.training.engine import train_step

EMA_MAP_COLUMN = "metrics/mAP_0.5:0.95"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that ended as planned."""
    folder = tmp_path_factory.mktemp("seam-state")
    return train(parse_request(toy_arguments(folder, "--epochs 2 --name a")))


def seams_report(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "seams.json").read_text())
    return content


def plan_of(run: Path) -> Plan:
    return Plan.from_dict(read_checkpoint(run / "weights" / "last.pt")["plan"])


def test_seam_metrics_use_one_validation(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Another image size changes the mAP of the same weights. Here it is set to 0.1 and 0.2 (EMA and
    # non-EMA weights) before the first step, and to 0.05 and 0.06 after the epoch.
    scores = iter([0.3, 0.1, 0.2, 0.05, 0.06, 0.05])  # the first is of best.pt

    def scored(*arguments: Any, **options: Any) -> Evaluation:
        return replace(summarize(*arguments, **options), map50_95=next(scores))

    monkeypatch.setattr("utils.training.validation.summarize", scored)
    how = "--lr-continuation hold --name smaller --imgsz 96 --allow-change imgsz"
    run = train(parse_request(extension_of(finished, how)))
    recorded = read_checkpoint(finished / "weights" / "last.pt")["history"][-1][EMA_MAP_COLUMN]
    (continuation,) = seams_report(run)["continuations"]
    (seam,) = seams_report(run)["seams"]
    assert (continuation["check"]["saved_ema"], continuation["check"]["ema"]) == (recorded, 0.1)
    assert (seam["ema_before"], seam["ema_lowest"]) == (0.1, 0.05)
    assert (seam["raw_before"], seam["raw_lowest"]) == (0.2, 0.06)
    assert seam["ema_drop"] == pytest.approx(0.05)
    history = read_checkpoint(run / "weights" / "last.pt")["history"]
    assert history[1][EMA_MAP_COLUMN] == recorded  # the metric of the epoch does not change


def test_extension_can_be_replaced_until_one_of_its_epochs_is_trained(
    finished: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = extension_of(finished, "--name replaced --lr-continuation restart", 3)
    killed_after(2, monkeypatch, first, at="save_on_begin")
    run = finished.parent / "replaced"
    assert plan_of(run).total_epochs == 5
    seam = (run / "weights" / "seam_2.pt").read_bytes()

    # --plan ignores the untrained extension
    show_plan(parse_request(extension_of(run, "--plan", 2)))
    numbers = json.loads((run / "lr_plan.json").read_text())
    assert [len(factors) for factors in numbers.values()] == [4] * 4
    assert plan_of(run).total_epochs == 5

    caplog.set_level(logging.WARNING, "yolo")
    assert train(parse_request(extension_of(run, "--lr-continuation hold", 2))) == run
    assert not [m for m in caplog.messages if "unfinished" in m]
    plan = plan_of(run)
    assert [(s.mode, s.start, s.stop) for s in plan.segments] == [("base", 0, 2), ("hold", 2, 4)]
    assert (run / "weights" / "seam_2.pt").read_bytes() == seam
    details = [item["detail"] for item in seams_report(run)["continuations"][-1]["audit"]]
    assert "2 → 4 epochs, hold from epoch 2" in details
    fresh = train(parse_request(extension_of(finished, "--lr-continuation hold --name fresh", 2)))
    assert same_run(run, fresh) == []


def test_repeating_the_command_after_an_interruption_logs_a_warning(
    finished: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = extension_of(finished, "--name again", 3)
    killed_after(3, monkeypatch, first)
    run = finished.parent / "again"
    caplog.set_level(logging.WARNING, "yolo")
    killed_after(3, monkeypatch, extension_of(run, "", 3), at="save_on_begin")
    (warning,) = [message for message in caplog.messages if "unfinished" in message]
    assert (
        "The extension to 5 epochs is unfinished, 3 epochs are done; --resume alone continues"
        in warning
    )
    assert "8 epochs in total" in warning
    assert "weights/seam_3.pt" in warning
    # as the warning says, the earlier extension can still be finished
    seam = str(run / "weights" / "seam_3.pt")
    other = train(parse_request(["--resume", seam, "--name", "first-choice", "--noplots"]))
    assert plan_of(other).total_epochs == 5


def test_run_stopped_within_an_epoch_is_extended_after_that_epoch(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epoch 0 is iterations 0 to 2, epoch 1 is 3 to 5; saved after each, killed after the fifth."""
    steps = iter(range(100))

    def step_or_fail(*arguments: Any, **options: Any) -> None:
        if next(steps) == 5:
            raise KeyboardInterrupt
        train_step(*arguments, **options)

    falling = (1 / epochs for epochs in range(1, 100))  # so epoch 0 stays the best
    monkeypatch.setattr("utils.training.engine.fitness", lambda _, __: next(falling))
    arguments = toy_arguments(tmp_path, "--epochs 3 --name inside --save-steps 1")
    with monkeypatch.context() as patch:
        patch.setattr("utils.training.engine.train_step", step_or_fail)
        with pytest.raises(KeyboardInterrupt):
            train(parse_request(arguments))
    inside = tmp_path / "runs" / "inside"
    last = read_checkpoint(inside / "weights" / "last.pt")
    assert (last["position"]["epoch"], last["progress"]["batches"]) == (1, 2)
    best = read_checkpoint(inside / "weights" / "best.pt")["ema"]["weights"]

    request = parse_request(extension_of(inside, "--lr-continuation hold --name longer", 1))
    resume_point = open_run(request).resume_point
    assert resume_point is not None
    assert (resume_point.completed, resume_point.next_seam) == (1, 2)
    run = train(request)
    plan = plan_of(run)
    assert [(s.mode, s.start, s.stop) for s in plan.segments] == [("base", 0, 3), ("hold", 2, 4)]
    saved = read_checkpoint(run / "weights" / "seam_2.pt")
    assert differences(saved["model"], last["model"]) == []
    (continuation,) = seams_report(run)["continuations"]
    statuses = {item["part"]: item["status"] for item in continuation["audit"]}
    assert statuses["epoch under way"] == "restored"
    assert continuation["check"]["saved_ema"] is None  # there are no metrics within an epoch
    history = read_checkpoint(run / "weights" / "last.pt")["history"]
    (seam,) = seams_report(run)["seams"]
    assert (seam["epoch"], seam["ema_before"], seam["epochs"]) == (2, history[1][EMA_MAP_COLUMN], 2)
    # the best weights are those of epoch 0, not those within epoch 1
    kept = read_checkpoint(run / "weights" / "best.pt")
    assert kept["epoch"] == 0
    name = "model.0.conv.weight"
    assert differences(kept["weights"][name], best[name].half()) == []
    # up to the seam it equals the run without the extension
    resumed(inside)
    unextended = read_checkpoint(inside / "weights" / "last.pt")["history"]
    assert (
        differences(unextended[:2], [{n: r[n] for n in unextended[1]} for r in history[:2]]) == []
    )


def test_run_resumes_from_its_previous_checkpoint(tmp_path: Path) -> None:
    whole = train(parse_request(toy_arguments(tmp_path, "--epochs 2 --name whole")))
    left = train(parse_request(toy_arguments(tmp_path, "--epochs 2 --name left")))
    (left / "weights" / "last.pt").unlink()
    assert resumed(left) == left
    assert same_run(whole, left) == []


def test_new_run_in_an_old_folder_deletes_its_files(tmp_path: Path) -> None:
    old = train(parse_request(toy_arguments(tmp_path, "--epochs 1 --name a --save-period 1")))
    train(parse_request(extension_of(old, "")))
    (old / "notes.txt").write_text("mine")
    (old / "weights" / "seam_of_mine.pt").write_text("mine")
    arguments = toy_arguments(tmp_path, "--epochs 1 --name a --exist-ok")
    assert train(parse_request(arguments)) == old
    kept = {file.name for file in (old / "weights").iterdir()}
    assert kept == {"last.pt", "last_prev.pt", "best.pt", "seam_of_mine.pt"}
    assert not (old / "seams.json").exists()
    assert (old / "notes.txt").read_text() == "mine"


def test_branch_into_an_old_folder_deletes_its_files(finished: Path, tmp_path: Path) -> None:
    old = train(parse_request(toy_arguments(tmp_path, "--epochs 1 --name a --save-period 1")))
    how = f"--project {old.parent} --name a --exist-ok"
    assert train(parse_request(extension_of(finished, how))) == old
    kept = {file.name for file in (old / "weights").iterdir()}
    assert kept == {"last.pt", "last_prev.pt", "best.pt", "seam_2.pt"}
    # the folder of the run itself is not cleared
    again = train(parse_request(extension_of(old, "--name a --exist-ok")))
    assert again == old
    assert (old / "weights" / "seam_2.pt").is_file()


def test_hyp_file_with_other_values_is_an_error(finished: Path, tmp_path: Path) -> None:
    hyp = tmp_path / "hyp.yaml"
    hyp.write_text("mosaic: 0.5")
    with pytest.raises(UserError, match=r"changes mosaic 1\.0 → 0\.5; omit it, or allow"):
        open_run(parse_request(extension_of(finished, f"--hyp {hyp}")))
