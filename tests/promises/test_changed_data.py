"""Data or a validation that changed are noticed, and epochs are compared on one validation only."""

import json
import logging
from pathlib import Path

import pytest
import torch

from tests.checkpoints import read_checkpoint, save_checkpoint
from tests.promises.test_resume import KilledError, differences, killed_after
from tests.toy import toy_arguments
from train import train
from utils.errors import RunInterruptedError, UserError
from utils.options.parser import parse_request

ALLOWED = ("--allow-change", "data")


def resume(run: Path, *more: str) -> Path:
    return train(parse_request(["--resume", str(run), "--noplots", *more]))


def edit_label(folder: Path, split: str) -> None:
    """Give the first box of an image the other class."""
    label = folder / "data" / "labels" / split / "0.txt"
    kind, box = label.read_text().split(maxsplit=1)
    label.write_text(f"{1 - int(kind)} {box}")


def die(*_: object) -> None:
    raise KilledError


def last_continuation(run: Path) -> dict[str, object]:
    report = json.loads((run / "seams.json").read_text())
    continuation: dict[str, object] = report["continuations"][-1]
    return continuation


def test_edited_data_need_to_be_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_after(1, monkeypatch, toy_arguments(tmp_path, "--epochs 2 --name a"))
    run = tmp_path / "runs" / "a"
    before = (run / "weights" / "last.pt").read_bytes()
    image = tmp_path / "data" / "images" / "train" / "0.png"
    pixels = image.read_bytes()
    image.write_bytes(pixels + b"\0")
    with pytest.raises(UserError, match=r"trained on: image bytes \d+ → \d+; restore it"):
        resume(run)
    image.write_bytes(pixels)
    edit_label(tmp_path, "train")
    with pytest.raises(UserError, match=r"labels of its images differ.*--allow-change data\."):
        resume(run)
    (tmp_path / "data" / "labels" / "train" / "1.txt").write_text("")
    with pytest.raises(UserError, match=r"trained on: train boxes 15 → 13; restore it"):
        resume(run)
    assert (run / "weights" / "last.pt").read_bytes() == before
    resume(run, *ALLOWED)
    continuation = last_continuation(run)
    assert continuation["allowed_changes"] == ["data"]
    audit = continuation["audit"]
    assert isinstance(audit, list)
    (item,) = [item for item in audit if item["part"] == "data set"]
    assert item["status"] == "changed"


def test_relative_paths_belong_to_the_folder_in_which_the_run_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "yolo")
    for name in ("a", "b"):
        arguments = toy_arguments(tmp_path / name, "--epochs 2 --stop-after 1 --name run")
        file = tmp_path / name / "data" / "toy.yaml"
        file.write_text(file.read_text().replace(f"path: {file.parent}", "path: data"))
        file.replace(tmp_path / name / "toy.yaml")
    edit_label(tmp_path / "b", "train")
    arguments[arguments.index("--data") + 1] = "toy.yaml"
    monkeypatch.chdir(tmp_path / "a")
    with pytest.raises(RunInterruptedError):
        train(parse_request(arguments))
    run = tmp_path / "b" / "runs" / "run"
    monkeypatch.chdir(tmp_path / "b")
    caplog.clear()
    with pytest.raises(UserError, match="not the data set that the run was trained on"):
        resume(run, "--data", "toy.yaml")
    resume(run)
    assert f"{tmp_path}/a/data/images/train: 10 images" in caplog.text
    file = tmp_path / "a" / "toy.yaml"
    assert read_checkpoint(run / "weights" / "last.pt")["config"]["options"]["data"] == str(file)


def test_recorded_name_leads_to_no_folder_outside_the_project(tmp_path: Path) -> None:
    run = train(parse_request(toy_arguments(tmp_path, "--epochs 1 --name a --nosave")))
    last = run / "weights" / "last.pt"
    checkpoint = read_checkpoint(last)
    checkpoint["config"]["options"]["name"] = "../../../outside"
    save_checkpoint(checkpoint, last)
    project = tmp_path / "other"
    found = resume(last, "--extend-epochs", "1", "--project", str(project))
    assert found == project / "outside"


def test_edited_data_restart_the_epoch_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = toy_arguments(tmp_path, "--epochs 2 --name a --save-steps 1")
    killed_after(0, monkeypatch, arguments, at="save_on_step")
    edit_label(tmp_path, "train")
    run = resume(tmp_path / "runs" / "a", *ALLOWED)
    assert "epoch 0, which was under way, restarts" in caplog.text
    history = read_checkpoint(run / "weights" / "last.pt")["history"]
    assert [row["iteration"] for row in history] == [4, 7]  # one batch before the restart


@pytest.mark.parametrize("change", ["image size", "labels"])
def test_best_weights_are_measured_again_if_the_validation_changes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: str,
) -> None:
    caplog.set_level(logging.INFO, "yolo")
    with monkeypatch.context() as patch:  # a first validation that no later one reaches
        patch.setattr("utils.training.engine.fitness", lambda *_: 0.75)
        run = train(parse_request(toy_arguments(tmp_path, "--epochs 2 --name a")))
    old = read_checkpoint(run / "weights" / "best.pt")
    how: tuple[str, ...] = ("--imgsz", "96", "--allow-change", "imgsz")
    if change == "labels":
        edit_label(tmp_path, "val")
        how = ALLOWED
    scores = iter([0.1, 0.2])
    monkeypatch.setattr("utils.training.best.fitness", lambda *_: 0.125)
    monkeypatch.setattr("utils.training.engine.fitness", lambda *_: next(scores))
    branch = resume(run, "--extend-epochs", "2", "--name", "b", *how)
    assert "the best weights, of epoch 1, is now 0.125, not 0.75." in caplog.text
    best = read_checkpoint(branch / "weights" / "best.pt")
    last = read_checkpoint(branch / "weights" / "last.pt")["best"]
    assert (best["epoch"], best["fitness"]) == (last["epoch"], last["fitness"]) == (3, 0.2)
    unchanged = read_checkpoint(run / "weights" / "best.pt")
    assert (unchanged["epoch"], unchanged["fitness"]) == (old["epoch"], 0.75)


def finished_with_an_early_best(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of three epochs whose best one is the first."""
    scores = iter([0.75, 0.5, 0.5])
    with monkeypatch.context() as patch:
        patch.setattr("utils.training.engine.fitness", lambda *_: next(scores))
        return train(parse_request(toy_arguments(folder, "--epochs 3 --name a")))


@pytest.mark.parametrize("at", ["measured", "saved", "abandoned"])
def test_best_weights_survive_a_kill_in_a_changed_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    run = finished_with_an_early_best(tmp_path, monkeypatch)
    best = read_checkpoint(run / "weights" / "best.pt")
    command = ["--resume", str(run), "--extend-epochs", "2", "--noplots"]
    smaller = ["--imgsz", "96", "--allow-change", "imgsz"]
    monkeypatch.setattr("utils.training.best.fitness", lambda *_: 0.625)
    monkeypatch.setattr("utils.training.engine.fitness", lambda *_: 0.125)
    if at == "measured":
        with monkeypatch.context() as patch:
            patch.setattr("utils.training.seam_check.audit_state", die)
            with pytest.raises(KilledError):
                train(parse_request([*command, *smaller]))
    else:
        killed_after(3, monkeypatch, [*command, *smaller], at="save_on_begin")
    again = {"measured": [*command, *smaller], "saved": command[:2], "abandoned": command}[at]
    train(parse_request(again))
    last = read_checkpoint(run / "weights" / "last.pt")["best"]
    assert (last["epoch"], last["fitness"]) == (0, 0.75 if at == "abandoned" else 0.625)
    kept = read_checkpoint(run / "weights" / "best.pt")
    assert differences(kept, best) == []


def test_replaced_extension_without_validation_keeps_the_best_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_with_an_early_best(tmp_path, monkeypatch)
    command = ["--resume", str(run), "--extend-epochs", "2", "--noplots"]
    unmeasured = ["--imgsz", "96", "--allow-change", "imgsz", "--noval"]
    killed_after(3, monkeypatch, [*command, *unmeasured], at="save_on_begin")
    assert read_checkpoint(run / "weights" / "last.pt")["best"]["epoch"] == -1
    killed_after(3, monkeypatch, command, at="save_on_begin")
    best = read_checkpoint(run / "weights" / "last.pt")["best"]
    assert (best["epoch"], best["fitness"]) == (0, 0.75)


def test_best_weights_are_measured_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = finished_with_an_early_best(tmp_path, monkeypatch)
    how = ("--extend-epochs", "2", "--imgsz", "96", "--allow-change", "imgsz")

    def interrupt(*_: object, **__: object) -> None:
        raise RunInterruptedError("SIGTERM", 143)

    with monkeypatch.context() as patch:
        patch.setattr("utils.training.validation.collect", interrupt)
        with pytest.raises(RunInterruptedError):
            resume(run, *how)
    caplog.set_level(logging.INFO, "yolo")
    resume(run)
    assert "(--imgsz 64 → 96): the fitness of the best weights, of epoch 0, is now" in caplog.text


def test_restarted_epoch_does_not_become_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = toy_arguments(tmp_path, "--epochs 3 --name a --save-steps 1")
    killed_after(1, monkeypatch, arguments, at="save_on_step")
    run = tmp_path / "runs" / "a"
    best = read_checkpoint(run / "weights" / "best.pt")["ema"]["weights"]
    seed = ["--resume", str(run), "--noplots", "--seed", "5", "--allow-change", "seed"]
    killed_after(1, monkeypatch, seed, at="save_on_begin")
    killed_after(1, monkeypatch, seed[:3], at="save_on_step")
    kept = read_checkpoint(run / "weights" / "best.pt")
    assert kept["epoch"] == 0 if kept["kind"] == "deploy" else kept["position"]["epoch"] == 1
    weights = kept["weights"] if kept["kind"] == "deploy" else kept["ema"]["weights"]
    assert all(torch.equal(weights[name], best[name].to(weights[name].dtype)) for name in best)


def test_best_weights_begin_again_if_they_cannot_be_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = train(parse_request(toy_arguments(tmp_path, "--epochs 1 --name a")))
    how = ("--imgsz", "96", "--allow-change", "imgsz", "--noval")
    resume(run, "--extend-epochs", "2", *how)
    assert "--imgsz 64 → 96); the next epochs determine a new best" in caplog.text
    assert read_checkpoint(run / "weights" / "last.pt")["best"]["epoch"] == 2


def test_replaced_extension_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hyp.yaml").write_text("warmup_epochs: 50.0")
    how = f"--epochs 1 --name a --hyp {tmp_path / 'hyp.yaml'}"
    run = train(parse_request(toy_arguments(tmp_path, how)))
    before = read_checkpoint(run / "weights" / "last.pt")
    choice = "--imgsz 96 --batch-size 2 --optimizer AdamW --allow-change imgsz,batch-size,optimizer"
    extend = ["--resume", str(run), "--extend-epochs", "1", "--noplots"]
    killed_after(1, monkeypatch, [*extend, *choice.split()], at="save_on_begin")
    abandoned = read_checkpoint(run / "weights" / "last.pt")
    assert abandoned["config"]["options"]["imgsz"] == 96
    assert abandoned["plan"]["warmup"]["changes"] == [[3, 250]]
    killed_after(1, monkeypatch, extend, at="save_on_begin")
    replaced = read_checkpoint(run / "weights" / "last.pt")
    assert replaced["config"]["options"] == before["config"]["options"]
    assert replaced["config"]["precision"] == before["config"]["precision"]
    assert replaced["optimizer"]["name"] == "SGD"
    assert replaced["plan"]["warmup"] == before["plan"]["warmup"]
    assert replaced["plan"]["accumulate"] == before["plan"]["accumulate"]
    buffers = before["optimizer"]["buffers"]
    assert replaced["optimizer"]["buffers"].keys() == buffers.keys() != set()
    (continuation,) = replaced["continuations"]
    assert (continuation["kind"], continuation["allowed_changes"]) == ("extended", [])
