"""A run continues when classes are new, dropped, renamed or reordered, or when images move."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import read_checkpoint
from tests.promises.test_resume import KilledError, differences, killed_after, resumed, same_run
from tests.toy import toy_arguments
from train import show_plan, train
from utils.errors import UserError
from utils.options.parser import parse_request

EMA, RAW = "metrics/mAP_0.5:0.95", "raw/mAP_0.5:0.95"
GROW = ("--allow-change", "classes", "--data")


def grown_data(folder: Path) -> Path:
    """A copy of the toy data in which green and red changed places and some boxes are blue."""
    root = folder / "grown"
    shutil.copytree(folder / "data", root)
    for label in root.glob("labels/*/*.txt"):
        rows = [row.split(maxsplit=1) for row in label.read_text().splitlines()]
        kinds = ["0" if label.stem == "0" else {"0": "2", "1": "1"}[kind] for kind, _ in rows]
        lines = [f"{kind} {row[1]}" for kind, row in zip(kinds, rows, strict=True)]
        label.write_text("\n".join(lines))
    file = root / "grown.yaml"
    splits = "train: images/train\nval: images/val"
    file.write_text(f"path: {root}\n{splits}\nnames: [blue, red, green]\n")
    (root / "toy.yaml").unlink()
    return file


def extend(run: Path, *more: str) -> list[str]:
    hold = ["--extend-epochs", "2", "--lr-continuation", "hold", "--noplots"]
    return ["--resume", str(run), *hold, *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run `a` of two epochs in `runs`, and data with other classes."""
    root = tmp_path_factory.mktemp("classes")
    train(parse_request(toy_arguments(root, "--epochs 2 --name a --optimizer AdamW")))
    grown_data(root)
    return root


def last_record(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "seams.json").read_text())["continuations"][-1]
    return record


def audit(run: Path) -> dict[str, tuple[str, str]]:
    return {i["part"]: (i["status"], i["detail"]) for i in last_record(run)["audit"]}


def test_class_grown_extension_is_exact_after_a_kill(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, data = folder / "runs" / "a", str(folder / "grown" / "grown.yaml")
    with pytest.raises(UserError, match=r"other classes .*new 1 \(blue\).*--allow-change classes"):
        train(parse_request(extend(run, "--data", data, "--allow-change", "data")))
    caplog.set_level(logging.INFO, "yolo")
    command = extend(run, *GROW, data, "--average", "2")
    whole = train(parse_request([*command, "--name", "whole"]))
    killed_after(3, monkeypatch, [*command, "--name", "killed"])
    killed = resumed(folder / "runs" / "killed")
    assert same_run(whole, killed) == []

    seam = read_checkpoint(whole / "weights" / "seam_2.pt")  # still with the old classes
    assert differences(seam, read_checkpoint(run / "weights" / "last.pt")) == []
    last = read_checkpoint(whole / "weights" / "last.pt")
    assert (last["config"]["names"], last["config"]["spec"]["nc"]) == (["blue", "red", "green"], 3)
    best = read_checkpoint(whole / "weights" / "best.pt")
    assert best["names"] == ["blue", "red", "green"]
    assert best["epoch"] == last["best"]["epoch"] >= 2
    found = audit(whole)
    assert found["classes"] == (
        "changed",
        "kept 2 (red, green), new 1 (blue), dropped 0, renamed 0, order changed",
    )
    assert found["best fitness"] == ("changed", "begins again, because the classes changed")
    assert found["images"] == (
        "changed",
        "0 moved from train to val, 0 moved from val to train, 0 new, 0 gone",
    )
    record = last_record(whole)
    assert record["allowed_changes"] == ["classes", "data"]
    assert record["classes"]["kept"] == ["red", "green"]
    rows = last["history"]
    assert [f"common/{EMA}" in row for row in rows] == [False, False, True, True]
    report = json.loads((whole / "seams.json").read_text())["seams"][0]
    assert report["common"]
    assert report["ema_before"] == rows[1][f"seam/common/{EMA}"]
    assert report["best"] == max(row[f"common/{EMA}"] for row in rows[2:])
    assert "mAP50-95 over the classes that stay of the EMA weights" in caplog.text


def test_replaced_class_change_leaves_nothing_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = folder / "runs" / "a", str(folder / "grown" / "grown.yaml")
    extended = [*extend(run), "--name", "replaced"]
    killed_after(2, monkeypatch, [*extended, *GROW, data], at="save_on_begin")
    replaced = folder / "runs" / "replaced"
    assert read_checkpoint(replaced / "weights" / "last.pt")["best"]["epoch"] == -1
    train(parse_request(extend(replaced)))
    fresh = train(parse_request([*extend(run), "--name", "fresh"]))
    pair = [read_checkpoint(r / "weights" / "last.pt") for r in (replaced, fresh)]
    for part in ("model", "ema", "optimizer", "history"):
        assert differences(pair[0][part], pair[1][part]) == [], part
    assert "classes" not in last_record(replaced)


def test_plain_resume_with_other_classes_restarts_the_epoch(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = toy_arguments(folder, f"--epochs 2 --save-steps 1 --project {tmp_path}")
    killed_after(0, monkeypatch, arguments, at="save_on_step")
    run, data = tmp_path / "exp", str(folder / "grown" / "grown.yaml")
    train(parse_request(["--resume", str(run), "--noplots", *GROW, data]))
    assert "so epoch 0, which was under way, restarts." in caplog.text
    last = read_checkpoint(run / "weights" / "last.pt")
    assert [row["iteration"] for row in last["history"]] == [4, 7]
    assert last["best"]["epoch"] >= 0


def test_renaming_changes_only_names(folder: Path) -> None:
    run, file = folder / "runs" / "a", folder / "data" / "toy.yaml"
    before = file.read_text()
    plain = train(parse_request([*extend(run), "--name", "plain"]))
    try:
        file.write_text(before.replace("green", "leaf"))
        with pytest.raises(UserError, match=r"new 1 \(leaf\), dropped 1 \(green\).*--rename-class"):
            train(parse_request(extend(run)))
        how = ("--name", "renamed", "--rename-class", "green=leaf")
        renamed = train(parse_request(extend(run, *how)))
    finally:
        file.write_text(before)
    pair = [read_checkpoint(r / "weights" / "last.pt") for r in (plain, renamed)]
    for part in ("model", "ema", "optimizer", "history", "best"):
        assert differences(pair[0][part], pair[1][part]) == [], part
    assert pair[1]["config"]["names"] == ["leaf", "red"]
    assert read_checkpoint(renamed / "weights" / "best.pt")["names"] == ["leaf", "red"]
    assert "green → leaf" in audit(renamed)["classes"][1]
    assert audit(renamed)["best fitness"][0] == "restored"


def test_plan_reports_what_changes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "yolo")
    run, data = folder / "runs" / "a", str(folder / "grown" / "grown.yaml")
    show_plan(parse_request([*extend(run, *GROW, data), "--plan"]))
    old = str(folder / "data" / "toy.yaml")
    assert f"Changes with the extension: data: {old} → {data}" in caplog.text
    assert "Changes with the extension: classes: kept 2 (red, green), new 1 (blue)" in caplog.text
    with pytest.raises(UserError, match="other classes than the run"):
        show_plan(parse_request([*extend(run, "--data", data), "--allow-change", "data", "--plan"]))


def test_moved_images_are_counted_and_patience_restarts_after_an_early_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.1, 0.1, 0.05, 0.05, 0.05])
    monkeypatch.setattr("utils.training.engine.fitness", lambda *_: next(scores))
    monkeypatch.setattr("utils.training.best.fitness", lambda *_: 0.75)
    arguments = toy_arguments(tmp_path, "--epochs 9 --patience 2 --name a")
    run = train(parse_request(arguments))
    assert read_checkpoint(run / "weights" / "last.pt")["stopped_early"]
    images, labels = tmp_path / "data" / "images", tmp_path / "data" / "labels"
    for kind, suffix in ((images, "png"), (labels, "txt")):
        (kind / "train" / f"1.{suffix}").rename(kind / "val" / f"moved.{suffix}")
    how = ("--extend-epochs", "3", "--lr-continuation", "hold", "--noplots")
    train(parse_request(["--resume", str(run), *how, "--allow-change", "data"]))
    last = read_checkpoint(run / "weights" / "last.pt")
    assert last["position"]["epoch"] == 5  # two epochs without improvement since the seam
    assert last["stopped_early"]
    assert last_record(run)["images"] == {
        **{"moved from train to val": 1, "moved from val to train": 0},
        **{"new": 0, "gone": 0},
    }
    assert audit(run)["images"][1].startswith("1 moved from train to val")


def test_hold_on_a_few_images_keeps_the_settings_of_the_steps(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one batch per epoch instead of three, warm-up, accumulation and momentum stay."""
    shutil.copytree(folder / "data", tmp_path / "data")
    for number in range(2, 10):
        (tmp_path / "data" / "images" / "train" / f"{number}.png").unlink()
    (tmp_path / "data" / "labels" / "train" / "0.txt").write_text("")  # a hard negative
    file = tmp_path / "data" / "few.yaml"
    text = (folder / "data" / "toy.yaml").read_text()
    file.write_text(text.replace(str(folder / "data"), str(tmp_path / "data")))
    plans = []

    def stop(state: Any, context: Any, *_: object, **__: object) -> None:
        plans.append((context.plan, state.epoch, state.iteration))
        raise KilledError

    monkeypatch.setattr("utils.training.engine.fit", stop)
    for more in ([], ["--data", str(file), "--allow-change", "data"]):
        with pytest.raises(KilledError):
            train(parse_request([*extend(folder / "runs" / "a"), *more, "--name", "few"]))
    (plan, *start), (few, *start_of_few) = plans
    assert start == start_of_few == [2, 6]
    assert few == plan
    assert few.settings(2, 6) == plan.settings(2, 6)
