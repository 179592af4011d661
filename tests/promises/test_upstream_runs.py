"""A run of YOLOv5 is imported and continued; its own files do not change."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from tests.checkpoints import read_checkpoint
from tests.paths import SHARED, requires_shared
from tests.toy import make_toy
from train import build, show_plan, train
from utils.datasets.description import load_description
from utils.errors import UserError
from utils.history import read_results
from utils.options.parser import parse_request
from utils.runs.run import open_run
from utils.runtime.distributed import SINGLE_PROCESS
from utils.solver.schedule import MODES, Plan
from utils.upstream.reader import read_upstream

LEGACY = SHARED / "legacy"
pytestmark = requires_shared


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten toy images with the class names of COCO, which the legacy runs were trained with."""
    file = make_toy(tmp_path / "data")
    description = yaml.safe_load(file.read_text())
    description["names"] = list(load_description("coco128.yaml").names)
    file.write_text(yaml.safe_dump(description))
    return file


def command(checkpoint: Path, data: Path, options: str) -> list[str]:
    outputs = ["--project", str(data.parent.parent / "runs"), "--noplots", "--workers", "0"]
    return ["--resume", str(checkpoint), "--data", str(data), *outputs, *options.split()]


@pytest.mark.parametrize(("version", "planned"), [("v7", 4), ("v5.0", 3)])
@pytest.mark.parametrize("mode", ["rebase", "slope-match", "hold", "restart"])
def test_every_mode_continues_from_the_last_learning_rate(
    data: Path, version: str, planned: int, mode: str
) -> None:
    """The base law is linear with lrf 0.01 for v7, and cosine with lrf 0.2 for v5.0."""
    options = f"--extend-epochs 2 --lr-continuation {mode} --name x"
    resume_point = open_run(
        parse_request(command(LEGACY / version / "epoch1.pt", data, options))
    ).resume_point
    assert resume_point is not None
    factors = resume_point.plan.factors()
    seam = {"v7": 0.7525, "v5.0": 0.8}[version]
    assert factors[:2] == pytest.approx([1, seam])
    assert (len(factors), resume_point.completed, resume_point.saved.total_epochs) == (
        planned + 2,
        2,
        planned,
    )
    last = {
        ("v7", "rebase"): seam * (1 - 0.99 * 3 / 4),
        ("v7", "slope-match"): seam
        - 3 * (seam - 0.01) / 4,  # the steepest slope that stays above lrf
        ("v7", "restart"): 1 - 0.99 * 5 / 6,
        ("v5.0", "rebase"): seam * (0.6 + 0.4 * math.cos(math.pi * 2 / 3)),
        ("v5.0", "slope-match"): seam - 2 * 0.2,  # 0.2 per epoch, as before
        ("v5.0", "restart"): 0.6 + 0.4 * math.cos(math.pi * 4 / 5),
    }.get((version, mode), seam)
    assert factors[-1] == pytest.approx(last, abs=1e-12)
    if mode != "restart":
        assert factors[2] == factors[1]


@pytest.mark.parametrize(("version", "mode"), [("v7", "slope-match"), ("v5.0", "rebase")])
def test_unstripped_checkpoint_is_extended_with_its_full_state(
    data: Path, version: str, mode: str
) -> None:
    checkpoint = LEGACY / version / "epoch1.pt"
    before = sorted(file.name for file in checkpoint.parent.iterdir())
    # Two of 4 (v7) or 3 (v5.0) planned epochs are completed.
    options = f"--extend-epochs 2 --lr-continuation {mode} --name imported"
    run = train(parse_request(command(checkpoint, data, options)))
    assert sorted(file.name for file in checkpoint.parent.iterdir()) == before

    planned = {"v7": 6, "v5.0": 5}[version]
    rows = read_results(run / "results.csv")
    assert [row["epoch"] for row in rows] == list(range(planned))
    expected = json.loads((LEGACY / version / "epoch1_expected.json").read_text())
    seam = read_checkpoint(run / "weights" / "seam_2.pt")
    assert seam["ema"]["updates"] == expected["updates"]
    assert len(seam["optimizer"]["buffers"]) == {"v7": 177, "v5.0": 183}[version]
    plan = Plan.from_dict(read_checkpoint(run / "weights" / "last.pt")["plan"])
    assert plan.factor(2) == plan.factor(1)
    found = statuses(run)
    # The v5.0 run was trained on a CPU in fp32 without a scaler; the v7 file does not record it.
    # The precision of the resumed run depends on this machine.
    expected_precision = {"v7": {"missing"}, "v5.0": {"restored", "changed"}}
    assert found.pop("precision") in expected_precision[version]
    assert found == {
        **dict.fromkeys(("weights", "EMA", "optimizer", "batch size", "image size"), "restored"),
        **dict.fromkeys(("processes", "hyper-parameters", "history"), "restored"),
        **dict.fromkeys(("learning-rate plan", "patience"), "changed"),
        **dict.fromkeys(("data order", "data set", "full precision"), "missing"),
        "best fitness": {"v7": "restored", "v5.0": "missing"}[version],
        "AMP scaler": {"v7": "missing", "v5.0": "restored"}[version],
    }

    more = ["--resume", str(run), "--extend-epochs", "1", "--noplots"]
    assert train(parse_request(more)) == run  # now it is a run of this program
    assert len(read_results(run / "results.csv")) == planned + 1


def statuses(run: Path) -> dict[str, str]:
    """Return the status of each part in the audit of the run's first continuation."""
    audit = json.loads((run / "seams.json").read_text())["continuations"][0]["audit"]
    found = {item["part"]: item["status"] for item in audit}
    assert len(found) == len(audit)  # each part occurs once
    return found


@pytest.mark.parametrize("version", ["v7", "v5.0"])
def test_stripped_checkpoint_needs_allow_partial_state(data: Path, version: str) -> None:
    checkpoint = LEGACY / version / "last_stripped.pt"
    options = "--extend-epochs 1 --name stripped"
    with pytest.raises(UserError, match="--allow-partial-state"):
        train(parse_request(command(checkpoint, data, options)))
    run = train(parse_request(command(checkpoint, data, f"{options} --allow-partial-state")))
    found = statuses(run)
    assert {part for part in found if found[part] == "missing"} >= {
        *("weights", "EMA", "optimizer", "epoch", "data order", "full precision"),
    }
    assert len(read_results(run / "results.csv")) == {"v7": 5, "v5.0": 4}[version]


def test_plan_of_an_imported_run_is_shown(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    how = ["--data", str(data), "--extend-epochs", "2", "--lr-continuation", "hold", "--plan"]
    folder = show_plan(parse_request(["--resume", str(LEGACY / "v7" / "epoch1.pt"), *how]))
    assert folder == Path()
    plans = json.loads((tmp_path / "lr_plan.json").read_text())
    assert set(plans) == set(MODES)
    assert plans["hold"] == pytest.approx([1, 0.7525, *[0.7525] * 4])


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A v7 run that was killed after two epochs; the first was the better one."""
    run = tmp_path / "yolov5"
    (run / "weights").mkdir(parents=True)
    for name in ("opt.yaml", "hyp.yaml"):
        shutil.copyfile(LEGACY / "v7" / name, run / name)
    header, first, second, *_ = (LEGACY / "v7" / "results.csv").read_text().splitlines()
    swapped = [second.replace(" 1,", " 0,", 1), first.replace(" 0,", " 1,", 1)]
    (run / "results.csv").write_text("\n".join([header, *swapped]))
    shutil.copyfile(LEGACY / "v7" / "epoch1.pt", run / "weights" / "last.pt")
    return run


def test_best_weights_are_imported(
    data: Path, killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "utils.training.engine.fitness", lambda _, __: 0.01
    )  # worse than all imported epochs
    shutil.copyfile(LEGACY / "v7" / "last_stripped.pt", killed / "weights" / "best.pt")
    options = "--extend-epochs 1 --name imported"
    run = train(parse_request(command(killed / "weights" / "last.pt", data, options)))
    best = read_checkpoint(run / "weights" / "best.pt")
    last = read_checkpoint(run / "weights" / "last.pt")
    assert last["best"] == {  # exact, as in the file
        "epoch": 0,
        "fitness": 0.07723735035398523,
        "validation": {"imgsz": 160, "batch_size": 16},
    }
    assert (best["kind"], best["epoch"], best["fitness"]) == ("deploy", 0, 0.07723735035398523)
    upstream = read_upstream(LEGACY / "v7" / "last_stripped.pt").model_state
    assert all(torch.equal(upstream[name], kept) for name, kept in best["weights"].items())
    assert statuses(run)["best fitness"] == "restored"


@pytest.mark.parametrize("beside", [True, False])
def test_run_without_its_best_weights_is_imported(
    data: Path, killed: Path, beside: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if beside:  # a best.pt of another epoch
        shutil.copyfile(LEGACY / "v5.0" / "epoch1.pt", killed / "weights" / "best.pt")
    options = "--extend-epochs 1 --name imported"
    caplog.set_level("WARNING", "yolo")
    run = train(parse_request(command(killed / "weights" / "last.pt", data, options)))
    assert any("the next epochs determine a new best" in message for message in caplog.messages)
    best = read_checkpoint(run / "weights" / "best.pt")
    last = read_checkpoint(run / "weights" / "last.pt")
    assert best["epoch"] == last["best"]["epoch"] >= 2


def test_folder_of_the_yolov5_run_is_not_written_to(data: Path, killed: Path) -> None:
    before = {file: file.read_bytes() for file in killed.rglob("*") if file.is_file()}
    options = f"--extend-epochs 1 --name {killed.name} --exist-ok --project {killed.parent}"
    with pytest.raises(UserError, match="is the folder of the YOLOv5 run itself; choose another"):
        train(parse_request(command(killed / "weights" / "last.pt", data, options)))
    assert {file: file.read_bytes() for file in killed.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("version", ["v7", "v5.0"])
def test_classes_of_an_imported_run_may_change(data: Path, version: str) -> None:
    """The rows of its head move with their classes, like the momentum."""
    description = yaml.safe_load(data.read_text())
    data.write_text(yaml.safe_dump(description | {"names": ["blob", "dog", "person"]}))
    options = "--extend-epochs 1 --name x --allow-change classes --device cpu"
    run = open_run(parse_request(command(LEGACY / version / "epoch1.pt", data, options)))
    built = build(run, SINGLE_PROCESS, torch.device("cpu"))
    assert run.resume_point is not None
    old = run.resume_point.checkpoint
    name = next(name for name in old["model"] if name.endswith("m.0.bias"))
    momentum = built.state.optimizer.state[built.state.model.get_parameter(name)]
    pairs = [
        (old["model"][name], built.state.model.get_parameter(name)),
        (old["ema"]["weights"][name], built.state.ema.model.get_parameter(name)),
        (old["optimizer"]["buffers"][name]["momentum_buffer"], momentum["momentum_buffer"]),
    ]
    for before, after in pairs:
        was, now = before.view(3, 85), after.detach().view(3, 8)
        assert torch.equal(now[:, :5], was[:, :5])
        assert torch.equal(now[:, 6:], was[:, [5 + 16, 5 + 0]])  # dog, person


def test_import_options_need_resume(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--schedule needs --resume; add --resume"):
        parse_request(["--schedule", "cosine"])
    with pytest.raises(UserError, match="--plan needs --extend-epochs; add"):
        parse_request(["--resume", str(tmp_path), "--plan"])
