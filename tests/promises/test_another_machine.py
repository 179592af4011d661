"""A run continues on another machine: elsewhere, with other paths, or from a read-only folder."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import read_checkpoint
from tests.promises.test_resume import differences, killed_after
from tests.toy import make_toy, toy_arguments
from train import show_plan, train
from utils.errors import UserError
from utils.options.parser import parse_request


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two equal runs of two epochs; one of them was killed after the first step of the second."""
    folder = tmp_path_factory.mktemp("machine") / "old"
    train(parse_request(toy_arguments(folder, "--epochs 2 --name whole")))
    with pytest.MonkeyPatch.context() as patch:
        arguments = toy_arguments(folder, "--epochs 2 --name killed --save-steps 1")
        killed_after(1, patch, arguments, at="save_on_step")
    return folder


@pytest.fixture
def moved(machine: Path, tmp_path: Path) -> Iterator[Path]:
    """The killed run and its data in another place; the old place is gone."""
    shutil.copytree(machine / "runs" / "killed", tmp_path / "killed")
    shutil.copytree(machine / "data", tmp_path / "sets" / "data")
    hidden = machine.rename(machine.with_name("hidden"))
    yield tmp_path
    hidden.rename(machine)


def resume(run: Path, *more: str) -> Path:
    return train(parse_request(["--resume", str(run), "--noplots", *more]))


def result_of(run: Path) -> dict[str, Any]:
    content = read_checkpoint(run / "weights" / "last.pt")
    return {name: content[name] for name in ("model", "ema", "optimizer", "history", "position")}


@pytest.mark.parametrize("how", ["--data", "YOLO_DATASETS_DIR"])
def test_copied_run_finds_its_data_and_continues_exactly(
    moved: Path,
    machine: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    """The data-set file names a folder that is gone; with --data, the data are beside the file."""
    monkeypatch.delenv("YOLO_DATASETS_DIR", raising=False)
    run, copy = moved / "killed", moved / "sets" / "data" / "toy.yaml"
    with pytest.raises(UserError, match=r"toy\.yaml does not exist; give .* --data FILE"):
        resume(run)
    if how == "--data":
        resume(run, "--data", str(copy))
    else:
        monkeypatch.setenv("YOLO_DATASETS_DIR", str(moved / "sets"))
        resume(run)
    was = f"The data set was in {machine / 'data'} when the run was saved; it is read from "
    assert f"{was}{copy.parent} now." in caplog.text
    whole = machine.with_name("hidden") / "runs" / "whole"
    assert differences(result_of(run), result_of(whole)) == []
    (continuation,) = json.loads((run / "seams.json").read_text())["continuations"]
    assert continuation["allowed_changes"] == []
    audit = {item["part"]: (item["status"], item["detail"]) for item in continuation["audit"]}
    assert audit["epoch under way"][0] == "restored"
    place = f"{copy}, 10 + 10 images, the same as in {machine / 'data' / 'toy.yaml'}"
    same = f"{machine / 'data' / 'toy.yaml'}, 10 + 10 images"
    assert audit["data set"] == ("restored", place if how == "--data" else same)


def test_data_that_moved_away_from_their_file_are_asked_for(moved: Path, machine: Path) -> None:
    (machine / "data").mkdir(parents=True)
    file = machine / "data" / "toy.yaml"
    file.write_text("train: images/train\nval: images/val\nnames: [green, red]")
    with pytest.raises(UserError, match=r"images/train does not exist .*; give .* --data FILE"):
        resume(moved / "killed")
    shutil.rmtree(machine)


def test_other_data_at_the_new_place_are_refused(moved: Path, machine: Path) -> None:
    data = moved / "sets" / "data"
    (data / "labels" / "train" / "1.txt").write_text("")
    text = (data / "toy.yaml").read_text().replace(str(machine / "data"), str(data))
    (data / "toy.yaml").write_text(text)
    with pytest.raises(UserError, match=r"toy.yaml is not the data set .* boxes 15 → 13; .*data"):
        resume(moved / "killed", "--data", str(data / "toy.yaml"))


@pytest.fixture
def read_only(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A read-only copy of the finished run; the current folder is another one."""
    run = Path(shutil.copytree(machine / "runs" / "whole", tmp_path / "run"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folders = [run / "weights", run]
    for folder in folders:
        folder.chmod(0o555)
    yield run
    for folder in folders:
        folder.chmod(0o755)


def test_read_only_run_is_planned_and_branched(read_only: Path, tmp_path: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in read_only.rglob("*")}
    extend = ["--resume", str(read_only), "--extend-epochs", "1", "--noplots"]
    assert show_plan(parse_request([*extend, "--plan"])) == Path()
    show_plan(parse_request([*extend, "--plan", "--project", str(tmp_path / "plans")]))
    for folder in (tmp_path / "here", tmp_path / "plans"):
        assert {file.name for file in folder.iterdir()} == {"lr_plan.json", "lr_plan.png"}
    with pytest.raises(UserError, match=r"is read-only, .* --project FOLDER --name NAME, or make"):
        train(parse_request(extend))
    branch = train(parse_request([*extend, "--project", str(tmp_path / "p"), "--name", "b"]))
    assert branch == tmp_path / "p" / "b"
    assert {file: file.stat().st_mtime_ns for file in read_only.rglob("*")} == before


def audit_of(run: Path) -> dict[str, str]:
    record = read_checkpoint(run / "weights" / "last.pt")["continuations"][-1]
    return {i["part"]: i["detail"] for i in record["audit"] if i["status"] == "changed"}


def test_batch_size_changes_during_the_warm_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """144 images are 9, 6, 3 and 2 batches; the warm-up of 50 epochs is under way throughout."""
    decays = []
    build = __import__("utils.training.build", fromlist=["build_optimizer"]).build_optimizer

    def recorded(*arguments: Any, **options: Any) -> Any:
        decays.append(options["weight_decay"])
        return build(*arguments, **options)

    monkeypatch.setattr("utils.training.build.build_optimizer", recorded)
    (tmp_path / "hyp.yaml").write_text("warmup_epochs: 50.0\nlrf: 0.2")
    make_toy(tmp_path / "data", 144)
    how = f"--epochs 4 --batch-size 16 --imgsz 32 --noval --hyp {tmp_path / 'hyp.yaml'}"
    killed_after(1, monkeypatch, toy_arguments(tmp_path, f"{how} --name a"))
    run = tmp_path / "runs" / "a"
    command = ["--resume", str(run), "--noplots", "--noval", "--save-steps", "1"]

    def changed(batch: int) -> list[str]:
        return [*command, "--batch-size", str(batch), "--allow-change", "batch-size"]

    straight = shutil.copytree(run, tmp_path / "runs" / "straight")
    killed_after(1, monkeypatch, changed(24), at="save_on_step")  # within the epoch
    assert audit_of(run) == {
        "batch size": "16 → 24",
        "effective batch": "64 (16 × 4) → 72 (24 × 3)",
        "weight decay": "0.0005 → 0.0005625",
        "warm-up": "450 → 300 iterations, continues at 2.0%",
    }
    killed_after(2, monkeypatch, command)
    killed_after(2, monkeypatch, [*changed(24)[:1], str(straight), *changed(24)[2:]])
    assert differences(result_of(run), result_of(straight)) == []
    killed_after(3, monkeypatch, changed(48))
    assert audit_of(run)["effective batch"] == "72 (24 × 3) → 48 (48 × 1)"
    assert audit_of(run)["weight decay"] == "0.0005625 → 0.000375"
    train(parse_request(changed(128)))
    assert audit_of(run)["effective batch"] == "48 (48 × 1) → 128 (128 × 1)"
    assert audit_of(run)["weight decay"] == "0.000375 → 0.001"
    factors = [1.0, 1.125, 1.125, 1.125, 0.75, 2.0]
    assert decays == pytest.approx([0.0005 * factor for factor in factors])
    last = read_checkpoint(run / "weights" / "last.pt")
    assert last["plan"]["warmup"]["changes"] == [[9, 300], [15, 150], [18, 100]]
    assert last["plan"]["accumulate"] == 1
    shares = [8 / 450, 0.02 + 5 / 300, 0.04 + 2 / 150, 0.06 + 1 / 100]  # of the last steps
    rates = [0.01 * (1 - 0.8 * epoch / 4) * share for epoch, share in enumerate(shares)]
    assert [row["x/lr1"] for row in last["history"]] == pytest.approx(rates, rel=1e-12)
    caplog.set_level(logging.INFO, "yolo")
    train(parse_request([*command, "--extend-epochs", "1"]))  # verifies all recorded rates
    assert "7 % of the warm-up is completed: it continues after the seam" not in caplog.text
    assert "8 % of the warm-up is completed: it continues after the seam" in caplog.text
