"""A finished run can be extended in every mode, repeatedly, and keeps its state and history."""

import json
import logging
import shlex
from pathlib import Path

import pytest

from tests.checkpoints import read_checkpoint, save_checkpoint
from tests.promises.test_resume import differences, killed_after, resumed, same_run
from tests.toy import toy_arguments
from train import show_plan, train
from utils.errors import UserError
from utils.history import read_results
from utils.options.parser import parse_request
from utils.solver.modes import JUMPING_MODES
from utils.solver.schedule import MODES, Plan

BATCHES = 3  # per epoch


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs that ended as planned."""
    folder = tmp_path_factory.mktemp("extension")
    return train(parse_request(toy_arguments(folder, "--epochs 3 --name a")))


def extended(run: Path, mode: str, extra: int, name: str) -> Path:
    return train(parse_request(extension_of(run, f"--lr-continuation {mode} --name {name}", extra)))


def extension_of(run: Path, how: str, extra: int = 1) -> list[str]:
    more = ["--extend-epochs", str(extra), "--noplots", *shlex.split(how)]
    return ["--resume", str(run), *more]


def test_modifiers_without_effect_are_named(
    finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(parse_request(extension_of(finished, "--lr-continuation hold --lrf 0.5 --name b")))
    assert "hold --lrf 0.5 has the same learning rates as plain hold; omit" in caplog.text


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_branches_and_can_be_extended_again(
    finished: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = (finished / "weights" / "last.pt").read_bytes()
    caplog.set_level(logging.INFO, "yolo")
    once = extended(finished, mode, 2, f"a-{mode}")
    start = f"last.pt from epoch 3 to a total of 5 epochs with `{mode}`, in {once}: the learning"
    assert start in caplog.text
    rows = read_results(once / "results.csv")
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[:3] == read_results(finished / "results.csv")
    assert (finished / "weights" / "last.pt").read_bytes() == before
    seam = read_checkpoint(once / "weights" / "seam_3.pt")
    assert differences(seam, read_checkpoint(finished / "weights" / "last.pt")) == []

    plan = Plan.from_dict(read_checkpoint(once / "weights" / "last.pt")["plan"])
    # The whole toy run is in its warm-up, which continues after the seam.
    for epoch, row in enumerate(rows):
        last = plan.settings(epoch, BATCHES * (epoch + 1) - 1).rates
        assert [row[f"x/lr{group}"] for group in range(3)] == pytest.approx(last, rel=1e-4)
    if mode == "restart":
        assert plan.factor(3) == pytest.approx(1 - 0.99 * 3 / 5)
    if mode not in JUMPING_MODES:
        assert plan.factor(3) == plan.factor(2)

    twice = extended(once, "rebase", 1, f"a-{mode}-again")
    assert len(read_results(twice / "results.csv")) == 6
    assert (twice / "weights" / "seam_5.pt").is_file()


def test_state_continues_across_the_seam(finished: Path) -> None:
    parent = read_checkpoint(finished / "weights" / "last.pt")
    child = read_checkpoint(extended(finished, "hold", 1, "state") / "weights" / "last.pt")
    assert parent["position"] == {"epoch": 3, "iteration": 9}
    assert child["position"] == {"epoch": 4, "iteration": 12}
    # A step takes 1 batch up to iteration 3, then 2, or the rest of the epoch. Steps by epoch:
    # 0 1 2 | 3 45 | 67 8 || 9,10 11
    assert parent["ema"]["updates"] == 7
    assert child["ema"]["updates"] == 9
    assert child["history"][:2] == parent["history"][:2]
    assert (
        child["history"][2].items() > parent["history"][2].items()
    )  # plus the metrics at the seam
    assert child["best"]["fitness"] >= parent["best"]["fitness"]
    assert child["optimizer"]["buffers"].keys() == parent["optimizer"]["buffers"].keys()


def test_seam_is_audited_checked_and_reported(finished: Path) -> None:
    run = extended(finished, "hold", 2, "audited")
    report = json.loads((run / "seams.json").read_text())
    (continuation,) = report["continuations"]
    assert (continuation["epoch"], continuation["kind"], continuation["allowed_changes"]) == (
        3,
        "extended",
        [],
    )
    statuses = {item["part"]: item["status"] for item in continuation["audit"]}
    assert {part for part, status in statuses.items() if status == "changed"} == {
        "learning-rate plan",
        "patience",
    }
    assert "missing" not in statuses.values()
    assert continuation["check"]["reproduced"] is True
    assert continuation["check"]["ema"] == continuation["check"]["saved_ema"]
    (seam,) = report["seams"]
    assert (seam["epoch"], seam["mode"], seam["ratio"], seam["epochs"]) == (3, "hold", 1.0, 2)
    assert seam["raw_before"] == continuation["check"]["raw"]
    assert seam["raw_lowest"] is not None
    history = read_checkpoint(run / "weights" / "last.pt")["history"]
    assert ["raw/mAP_0.5:0.95" in row for row in history] == [False, False, True, True, True]


def test_allowed_change_is_applied_and_recorded(finished: Path) -> None:
    how = "--name smaller --batch-size 5 --allow-change batch-size"
    run = train(parse_request(extension_of(finished, how)))
    last = read_checkpoint(run / "weights" / "last.pt")
    assert last["config"]["options"]["batch_size"] == 5
    assert last["plan"]["accumulate"] == 13  # 64 / 5
    assert last["position"] == {"epoch": 4, "iteration": 11}  # two batches of five
    (continuation,) = json.loads((run / "seams.json").read_text())["continuations"]
    assert continuation["allowed_changes"] == ["batch_size"]
    assert {"part": "batch size", "status": "changed", "detail": "4 → 5"} in continuation["audit"]


def test_hyp_file_may_change_all_but_the_learning_rate(finished: Path, tmp_path: Path) -> None:
    hyp = tmp_path / "hyp.yaml"
    command = extension_of(finished, f"--name other-hyp --allow-change hyp --hyp {hyp}")
    hyp.write_text("mosaic: 0.5")
    run = train(parse_request(command))
    assert read_checkpoint(run / "weights" / "last.pt")["config"]["hyp"]["mosaic"] == 0.5
    hyp.write_text("lr0: 0.5")
    for allowed in (command, extension_of(finished, f"--name other-hyp --hyp {hyp}")):
        with pytest.raises(UserError, match=r"changes lr0 of the .* --extend-epochs and --peak"):
            train(parse_request(allowed))


def test_extension_that_trains_nothing_is_refused(finished: Path) -> None:
    run = train(parse_request(extension_of(finished, "--cooldown-epochs 1 --lrf 0 --name zero", 2)))
    for mode in ("hold", "rebase", "slope-match"):
        with pytest.raises(UserError, match=f"{mode} would train nothing; add --peak P"):
            train(parse_request(extension_of(run, f"--lr-continuation {mode}")))
    warmed = extension_of(run, "--lr-continuation hold --peak 0.1 --rewarm-epochs 1", 2)
    assert len(read_results(train(parse_request(warmed)) / "results.csv")) == 7


def test_extension_that_barely_trains_is_reported(
    finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    barely = extension_of(finished, "--lrf 0.001 --name barely --cooldown-epochs 1", 2)
    train(parse_request(barely))
    assert "barely trains" not in caplog.text
    run = finished.with_name("barely")
    train(parse_request(extension_of(run, "--lr-continuation hold")))
    assert "hold (0." in caplog.text
    assert "barely trains, because the sum of learning rates is below 3 %" in caplog.text


def test_edited_configuration_files_are_reported(
    finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = extended(finished, "hold", 1, "edited")
    assert "differs from the checkpoint" not in caplog.text
    text = (run / "opt.yaml").read_text()
    (run / "opt.yaml").write_text(text.replace("batch_size: 4", "batch_size: 8"))
    train(parse_request(extension_of(run, "")))
    assert "opt.yaml differs from the checkpoint in batch_size; the values of" in caplog.text
    assert (run / "opt.yaml").read_text().replace("planned_epochs: 5", "planned_epochs: 4") == text


def test_extension_killed_at_its_seam_can_be_resumed(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after(3, monkeypatch, extension_of(finished, "--name killed", 2), at="save_on_begin")
    killed = finished.parent / "killed"
    assert resumed(killed) == killed
    assert same_run(killed, extended(finished, "rebase", 2, "unharmed")) == []


def test_branch_from_an_earlier_checkpoint_has_its_own_best(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = extended(finished, "hold", 1, "future")
    scores = iter([9.0])
    monkeypatch.setattr("utils.training.engine.fitness", lambda _, __: next(scores))
    train(parse_request(extension_of(run, "")))  # in place, with a much better fitness
    monkeypatch.undo()
    branch = train(parse_request(extension_of(run / "weights" / "seam_4.pt", "--name past")))
    best = read_checkpoint(branch / "weights" / "best.pt")
    last = read_checkpoint(branch / "weights" / "last.pt")
    assert best["epoch"] == last["best"]["epoch"]
    assert best["fitness"] == last["best"]["fitness"] < 1


def test_extension_in_place_continues_in_the_run_folder(finished: Path) -> None:
    run = extended(finished, "hold", 1, "in-place")
    assert train(parse_request(extension_of(run, "--lr-continuation slope-match"))) == run
    assert len(read_results(run / "results.csv")) == 5
    assert read_checkpoint(run / "weights" / "best.pt")["kind"] == "deploy"
    with pytest.raises(UserError, match=r"seam_4\.pt is an earlier checkpoint .* add --name"):
        train(parse_request(extension_of(run / "weights" / "seam_4.pt", "")))


def test_finished_run_cannot_be_resumed_without_more_epochs(finished: Path) -> None:
    with pytest.raises(
        UserError, match="all 3 planned epochs are done; add --extend-epochs X to extend"
    ):
        train(parse_request(["--resume", str(finished)]))
    with pytest.raises(UserError, match=r"best\.pt contains only weights, no optimizer"):
        train(parse_request(["--resume", str(finished / "weights" / "best.pt")]))


def test_plan_option_does_not_train_or_change_the_run(finished: Path) -> None:
    before = {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}
    folder = show_plan(parse_request(extension_of(finished, "--plan", 3)))
    assert folder.resolve() == finished
    for file, content in before.items():
        assert file.read_bytes() == content
    added = {file.name for file in finished.rglob("*") if file.is_file() and file not in before}
    assert added == {"lr_plan.png", "lr_plan.json"}
    plans = json.loads((finished / "lr_plan.json").read_text())
    assert [len(plan) for plan in plans.values()] == [6] * len(MODES)


def test_edited_plan_is_an_error_before_any_step(finished: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(finished / "weights" / "last.pt")
    checkpoint["plan"]["segments"][0]["epochs"] = 9
    edited = tmp_path / "last.pt"
    save_checkpoint(checkpoint, edited)
    with pytest.raises(UserError, match=r"the planned total was changed from 3 to 9 epochs"):
        train(parse_request(["--resume", str(edited), "--project", str(tmp_path), "--name", "x"]))
    assert not (tmp_path / "x").exists()


def test_damaged_best_does_not_prevent_an_extension(finished: Path) -> None:
    run = extended(finished, "hold", 1, "hurt-best")
    (run / "weights" / "best.pt").write_bytes(b"PK not a zip file")
    train(parse_request(extension_of(run, "")))
    best = read_checkpoint(run / "weights" / "best.pt")
    last = read_checkpoint(run / "weights" / "last.pt")
    assert best["epoch"] == last["best"]["epoch"]


def test_branch_records_only_its_own_past(finished: Path) -> None:
    run = extended(finished, "hold", 1, "lineage")
    seam = run / "weights" / "seam_3.pt"
    branch = train(parse_request(extension_of(seam, "--name other-lineage")))
    (continuation,) = json.loads((branch / "seams.json").read_text())["continuations"]
    details = [item["detail"] for item in continuation["audit"]]
    assert "3 → 4 epochs, rebase from epoch 3" in details
    plan = show_plan(parse_request(extension_of(seam, "--plan")))
    assert (plan / "lr_plan.json").is_file()


def test_allowed_changes_survive_a_kill_at_the_seam(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = "--name allowed --batch-size 5 --allow-change batch-size"
    killed_after(3, monkeypatch, extension_of(finished, how), at="save_on_begin")
    run = resumed(finished.parent / "allowed")
    continuations = json.loads((run / "seams.json").read_text())["continuations"]
    assert [(c["kind"], c["allowed_changes"]) for c in continuations] == [
        ("extended", ["batch_size"]),
        ("resumed", []),
    ]
