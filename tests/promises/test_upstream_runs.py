"""A run that was trained with YOLOv5 is taken along, and its own files stay as they are."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.paths import SHARED, requires_shared
from tests.toy import make_toy
from train import show_plan, train
from utils.checkpoint.store import read_checkpoint
from utils.command_line import parse_request
from utils.datasets.description import load_description
from utils.errors import UserError
from utils.history import read_results
from utils.solver.schedule import Plan

LEGACY = SHARED / "legacy"
pytestmark = requires_shared


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten toy images under the class names of COCO, on which the legacy runs were trained."""
    file = make_toy(tmp_path / "data")
    description = yaml.safe_load(file.read_text())
    description["names"] = list(load_description("coco128.yaml").names)
    file.write_text(yaml.safe_dump(description))
    return file


def command(checkpoint: Path, data: Path, how: str) -> list[str]:
    outputs = ["--project", str(data.parent.parent / "runs"), "--noplots", "--workers", "0"]
    return ["--resume", str(checkpoint), "--data", str(data), *outputs, *how.split()]


@pytest.mark.parametrize("version", ["v7", "v5.0"])
def test_an_unstripped_checkpoint_is_extended_with_all_of_its_state(
    data: Path, version: str
) -> None:
    checkpoint = LEGACY / version / "epoch1.pt"
    before = sorted(file.name for file in checkpoint.parent.iterdir())
    # Planned for 4 (v7) or 3 epochs (v5.0), of which two are done.
    run = train(parse_request(command(checkpoint, data, "--extend-epochs 1 --name taken")))
    assert sorted(file.name for file in checkpoint.parent.iterdir()) == before

    planned = {"v7": 5, "v5.0": 4}[version]
    rows = read_results(run / "results.csv")
    assert [row["epoch"] for row in rows] == list(range(planned))
    expected = json.loads((LEGACY / version / "epoch1_expected.json").read_text())
    seam = read_checkpoint(run / "weights" / "seam_2.pt")
    assert seam["ema"]["updates"] == expected["updates"]
    assert len(seam["optimizer"]["buffers"]) == {"v7": 177, "v5.0": 183}[version]
    plan = Plan.from_dict(read_checkpoint(run / "weights" / "last.pt")["plan"])
    assert plan.factor(2) == plan.factor(1)
    audit = json.loads((run / "seams.json").read_text())["continuations"][0]["audit"]
    statuses = {item["part"]: item["status"] for item in audit}
    assert statuses["EMA"] == statuses["optimizer"] == "restored"

    more = ["--resume", str(run), "--extend-epochs", "1", "--noplots"]
    assert train(parse_request(more)) == run  # from now on it is a run of ours
    assert len(read_results(run / "results.csv")) == planned + 1


@pytest.mark.parametrize("version", ["v7", "v5.0"])
def test_a_stripped_checkpoint_needs_permission(data: Path, version: str) -> None:
    checkpoint = LEGACY / version / "last_stripped.pt"
    how = "--extend-epochs 1 --name bare"
    with pytest.raises(UserError, match="--allow-partial-state"):
        train(parse_request(command(checkpoint, data, how)))
    run = train(parse_request(command(checkpoint, data, f"{how} --allow-partial-state")))
    audit = json.loads((run / "seams.json").read_text())["continuations"][0]["audit"]
    assert {item["part"]: item["status"] for item in audit}["optimizer"] == "missing"


def test_its_plan_can_be_looked_at(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    how = "--extend-epochs 2 --lr-continuation hold --plan"
    folder = show_plan(parse_request(command(LEGACY / "v7" / "epoch1.pt", data, how)))
    assert folder == Path()
    plans = json.loads((tmp_path / "lr_plan.json").read_text())
    assert set(plans) == {"rebase", "slope-match", "hold", "restart"}
    assert plans["hold"] == pytest.approx([1, 0.7525, *[0.7525] * 4])


@pytest.mark.parametrize("beside", [True, False])
def test_a_best_epoch_before_the_last_does_not_stand_in_the_way(
    data: Path, tmp_path: Path, beside: bool
) -> None:
    run = tmp_path / "yolov5"
    (run / "weights").mkdir(parents=True)
    for name in ("opt.yaml", "hyp.yaml"):
        shutil.copyfile(LEGACY / "v7" / name, run / name)
    rows = (LEGACY / "v7" / "results.csv").read_text().replace("0.032135", "0.932135")
    (run / "results.csv").write_text(rows)
    shutil.copyfile(LEGACY / "v7" / "epoch1.pt", run / "weights" / "last.pt")
    if beside:
        shutil.copyfile(LEGACY / "v7" / "last_stripped.pt", run / "weights" / "best.pt")
    how = "--extend-epochs 1 --name taken"
    taken = train(parse_request(command(run / "weights" / "last.pt", data, how)))
    best = read_checkpoint(taken / "weights" / "best.pt")
    last = read_checkpoint(taken / "weights" / "last.pt")
    assert best["epoch"] == last["best"]["epoch"] >= 2  # looked for anew


def test_options_for_checkpoints_of_yolov5_are_refused_for_ours(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--schedule goes on with an existing run: add --resume"):
        parse_request(["--schedule", "cosine"])
    with pytest.raises(UserError, match="--plan needs --extend-epochs"):
        parse_request(["--resume", str(tmp_path), "--plan"])
