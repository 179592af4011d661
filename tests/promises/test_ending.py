"""A run can be stopped on purpose, finished early, or branched off before its cooldown."""

import json
from pathlib import Path

import pytest

from tests.checkpoints import read_checkpoint, save_checkpoint
from tests.promises.test_resume import differences, killed_after, resumed, same_run
from tests.toy import toy_arguments
from train import show_plan, train
from utils.errors import RunInterruptedError, UserError
from utils.history import read_results
from utils.options.parser import parse_request
from utils.runs.run import Run
from utils.solver.schedule import Plan

EPOCHS, DONE, LRF = 6, 3, 0.01  # of the run; lrf as in the default hyper-parameters
RATE = 1 - (1 - LRF) * (DONE - 1) / EPOCHS  # the factor of the last epoch done


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six epochs that was stopped on purpose after three."""
    folder = tmp_path_factory.mktemp("ending")
    how = f"--epochs {EPOCHS} --name stopped --close-mosaic 1 --stop-after {DONE}"
    with pytest.raises(RunInterruptedError) as stop:
        train(parse_request(toy_arguments(folder, how)))
    assert (stop.value.cause, stop.value.exit_code) == ("--stop-after 3", 85)
    return folder / "runs" / "stopped"


def continued(run: Path, *more: str) -> list[str]:
    return ["--resume", str(run), "--noplots", *more]


def plan_of(run: Path, file: str = "last.pt") -> Plan:
    return Plan.from_dict(read_checkpoint(run / "weights" / file)["plan"])


def test_stopped_run_is_saved_and_ends_like_a_run_that_was_not_stopped(stopped: Path) -> None:
    saved = read_checkpoint(stopped / "weights" / "last.pt")
    assert (saved["position"]["epoch"], saved["progress"]["batches"]) == (DONE, 0)
    assert plan_of(stopped).total_epochs == EPOCHS
    how = f"--epochs {EPOCHS} --name whole --close-mosaic 1"
    whole = train(parse_request(toy_arguments(stopped.parents[1], how)))
    branch = train(parse_request(continued(stopped, "--name", "resumed")))
    assert [plan_of(branch).uses_mosaic(epoch) for epoch in (4, 5)] == [True, False]
    assert same_run(whole, branch) == []


def test_closing_the_mosaic_of_a_run_without_mosaics_is_named(
    stopped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    how = ("--finish-epochs", "1", "--close-mosaic", "1", "--rect", "--allow-change", "rect")
    train(parse_request(continued(stopped, *how, "--name", "rect", "--noval")))
    assert "--close-mosaic has no effect: with --rect, no epoch has mosaics." in caplog.text


def test_time_limit_stops_after_a_step(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "deadline", property(lambda _: 0.0))
    with pytest.raises(RunInterruptedError) as stop:
        train(parse_request(continued(stopped, "--name", "timed", "--max-hours", "1")))
    assert (stop.value.cause, stop.value.exit_code) == ("--max-hours", 85)
    saved = read_checkpoint(stopped.with_name("timed") / "weights" / "last.pt")
    assert (saved["position"]["epoch"], saved["progress"]["batches"]) == (DONE, 1)


def test_stop_in_the_past_is_an_error(stopped: Path) -> None:
    with pytest.raises(UserError, match=r"--stop-after 3: 3 epochs are done already; give a larg"):
        train(parse_request(continued(stopped, "--stop-after", "3", "--name", "x")))


FINISH = ["--finish-epochs", "2", "--close-mosaic", "1", "--average", "2", "--patience", "1"]


@pytest.fixture(scope="module")
def finished(stopped: Path) -> Path:
    """The stopped run, finished in two averaged epochs, of which the last is without mosaic."""
    return train(parse_request(continued(stopped, *FINISH, "--name", "finished")))


def test_finish_descends_to_the_final_rate_and_shortens_the_run(finished: Path) -> None:
    plan = plan_of(finished)
    expected = [RATE + (LRF - RATE) / 2, LRF]
    assert plan.factors()[DONE:] == pytest.approx(expected)
    assert [plan.uses_mosaic(epoch) for epoch in (3, 4)] == [True, False]
    rows = read_results(finished / "results.csv")
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    record = json.loads((finished / "seams.json").read_text())["continuations"][-1]
    [detail] = [i["detail"] for i in record["audit"] if i["part"] == "learning-rate plan"]
    assert detail == "6 → 5 epochs, finish from epoch 3, no mosaic from epoch 4"


def test_finish_killed_after_an_epoch_ends_identically(
    stopped: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after(DONE + 1, monkeypatch, continued(stopped, *FINISH, "--name", "killed"))
    assert same_run(finished, resumed(stopped.with_name("killed"))) == []


def test_finish_is_compared_with_the_plan_as_it_is(
    stopped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "yolo")
    how = ("--cooldown-shape", "1-sqrt", "--plan")
    show_plan(parse_request(continued(stopped, *FINISH, *how)))
    plans = json.loads((stopped / "lr_plan.json").read_text())
    assert {label: len(factors) for label, factors in plans.items()} == {
        "as planned": EPOCHS,
        "finish --cooldown-shape 1-sqrt": DONE + 2,
    }
    end = plans["finish --cooldown-shape 1-sqrt"][DONE:]
    assert end == pytest.approx([RATE + (LRF - RATE) * 0.5**0.5, LRF])
    assert "Patience does not stop a finish." in caplog.text
    assert "No mosaic and mixup from epoch 4 on." in caplog.text
    assert "the mean of the weights after epochs 3 to 4; an early stop" in caplog.text


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("--finish-epochs 4", r"--finish-epochs 4: 3 of 6 epochs are left; use fewer, or add ep"),
        ("--finish-epochs 2 --lrf 0.9", r"is at 0.67 of lr0, so it cannot descend to lrf 0.9; add"),
        ("--finish-epochs 2 --close-mosaic 3", r"--close-mosaic 3: must be at most 2"),
        ("--finish-epochs 2 --extend-epochs 2", r"--extend-epochs cannot be combined with --fin"),
        ("--finish-epochs 2 --peak 0.5", r"--peak cannot be combined with --finish-epochs, which"),
        ("--extend-epochs -2", r"--extend-epochs -2: must be between 1 and 1000000; .* --finish"),
        ("--lrf 0.1", r"--lrf needs --extend-epochs; add --extend-epochs X or --finish-epochs K"),
        (
            "--epochs 4",
            r"--epochs 4 differs from the 6 .* end the run earlier with --finish-epochs",
        ),
        ("--close-mosaic 2", r"--close-mosaic is fixed when a run or an extension starts; omit it"),
        ("--extend-epochs 2 --cooldown-shape 1-sqrt", r"--cooldown-shape 1-sqrt has no effect"),
    ],
)
def test_contradictions_are_errors(stopped: Path, how: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(parse_request(continued(stopped, *how.split(), "--name", "x")))


def test_planned_ends_that_an_extension_leaves_out_are_named(
    stopped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "yolo")
    sentence = "--close-mosaic 1 was planned for the last epochs of 6 and ends here; give it again"
    show_plan(parse_request(continued(stopped, "--finish-epochs", "2", "--plan")))
    assert sentence in caplog.text
    caplog.clear()
    how = ("--finish-epochs", "2", "--plan", "--close-mosaic", "1")
    show_plan(parse_request(continued(stopped, *how)))
    assert "was planned" not in caplog.text


def test_plan_reads_the_data_set_file_that_is_given(stopped: Path) -> None:
    with pytest.raises(UserError, match=r"data-set file nowhere.yaml does not exist"):
        show_plan(
            parse_request(
                continued(stopped, "--finish-epochs", "2", "--plan", "--data", "nowhere.yaml")
            )
        )


def test_complete_run_cannot_be_finished(finished: Path) -> None:
    with pytest.raises(UserError, match=r"--finish-epochs 1: all 5 planned epochs are done; add"):
        train(parse_request(continued(finished, "--finish-epochs", "1")))


def test_extension_after_an_early_stop_counts_from_the_epochs_done(
    stopped: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "yolo")
    run = stopped.with_name("early")
    (run / "weights").mkdir(parents=True)
    saved = read_checkpoint(stopped / "weights" / "last.pt")
    save_checkpoint({**saved, "stopped_early": True}, run / "weights" / "last.pt")
    killed_after(DONE, monkeypatch, continued(run, "--extend-epochs", "9"), at="save_on_begin")
    # Extended again before the first step, and counted in the same way.
    train(parse_request(continued(run, "--extend-epochs", "1")))
    assert plan_of(run).total_epochs == DONE + 1
    reason = "--extend-epochs counts from the 3 epochs that are done, because the run stopped early"
    assert caplog.text.count(reason) == 2


def test_branch_before_a_cooldown_continues_as_if_there_were_none(stopped: Path) -> None:
    def extended(run: Path, how: str, name: str) -> Path:
        more = f"--lr-continuation hold {how} --name {name}".split()
        return train(parse_request(continued(run, *more)))

    start = stopped.with_name("start")
    (start / "weights").mkdir(parents=True)
    saved = read_checkpoint(stopped / "weights" / "last.pt")
    save_checkpoint({**saved, "stopped_early": True}, start / "weights" / "last.pt")
    cooled = extended(
        start, "--extend-epochs 3 --cooldown-epochs 2 --cooldown-shape 1-sqrt", "cool"
    )
    end = RATE * LRF
    expected = [RATE, RATE + (end - RATE) * 0.5**0.5, end]
    assert plan_of(cooled).factors()[DONE:] == pytest.approx(expected)
    trunk = cooled / "weights" / "trunk_4.pt"
    assert [file.name for file in trunk.parent.glob("trunk*")] == ["trunk_4.pt"]

    branch = extended(trunk, "--extend-epochs 2", "branch")
    assert plan_of(branch).factors()[DONE:] == [plan_of(stopped).factor(DONE - 1)] * 3
    plain = extended(extended(start, "--extend-epochs 1", "one"), "--extend-epochs 2", "two")
    kept = ("model", "ema", "optimizer", "position")
    found, wanted = (read_checkpoint(run / "weights" / "last.pt") for run in (branch, plain))
    assert [d for key in kept for d in differences(found[key], wanted[key])] == []
