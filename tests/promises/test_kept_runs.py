"""Runs written by earlier versions can be resumed and extended.

`tests/kept_runs/version_1` was written by the first version of the checkpoint format: the toy model
on the toy data set, seed 7, without AMP. `finished` was trained for 3 epochs and extended by 2 with
slope-match; `stopped` was interrupted after its fifth step, with two accumulated batches.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.checkpoints import read_checkpoint
from tests.paths import ROOT
from tests.toy import make_toy, make_toy_model
from train import train
from utils.history import read_results
from utils.options.parser import parse_request
from utils.solver.schedule import MODES, Plan
from utils.weights import load_model

KEPT = ROOT / "tests" / "kept_runs" / "version_1"
DATA = "path: toy\ntrain: images/train\nval: images/val\nnames: [green, red]\n"
HOW = (
    "--data toy.yaml --cfg toy_model.yaml --imgsz 64 --batch-size 4 --workers 0 --device cpu "
    "--noautoanchor --noplots --nominal-batch-size 400 --amp off --seed 7 --epochs 3"
)
TOLERANCES = {"model": 5e-5, "optimizer": 3e-2}
"""Relative differences that other processors or numbers of threads may cause. Two threads instead
of one cause 2e-6 and 3e-3; a resume that loses the gradients or the momentum, 6e-4 and 0.6."""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the kept runs, in a folder that also contains their data set."""
    make_toy(tmp_path / "toy")
    (tmp_path / "toy.yaml").write_text(DATA)
    make_toy_model(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOLO_DATASETS_DIR", str(tmp_path))
    return Path(shutil.copytree(KEPT, tmp_path / "runs"))


def test_kept_stopped_run_resumes_like_an_uninterrupted_run(runs: Path) -> None:
    run = train(parse_request(["--resume", str(runs / "stopped"), "--noplots"]))
    whole = train(parse_request([*HOW.split(), "--weights", "", "--project", "runs"]))
    assert [row["epoch"] for row in read_results(run / "results.csv")] == [0, 1, 2]
    found, expected = (read_checkpoint(f / "weights" / "last.pt") for f in (run, whole))
    assert found["position"] == expected["position"] == {"epoch": 3, "iteration": 9}
    assert "mosaic_batches" not in found["config"]  # mosaics go on as they were
    assert expected["config"]["mosaic_batches"] == 8
    for part, tolerance in TOLERANCES.items():
        tensors, wanted = flat(found[part]), flat(expected[part])
        assert tensors.keys() == wanted.keys()
        error = torch.stack([(tensors[name] - wanted[name]).double().norm() for name in wanted])
        size = torch.stack([tensor.double().norm() for tensor in wanted.values()])
        assert error.norm() <= tolerance * size.norm(), part


def flat(
    part: dict[str, torch.Tensor | dict[str, dict[str, torch.Tensor]]],
) -> dict[str, torch.Tensor]:
    """The tensors of a state dict or of optimizer buffers, by name."""
    buffers = part.get("buffers")
    if isinstance(buffers, dict):
        return {name: own["momentum_buffer"] for name, own in buffers.items()}
    return {name: tensor for name, tensor in part.items() if isinstance(tensor, torch.Tensor)}


@pytest.mark.parametrize("mode", MODES)
def test_kept_finished_run_is_extended_in_every_mode(runs: Path, mode: str) -> None:
    before = read_checkpoint(runs / "finished" / "weights" / "last.pt")
    how = f"--extend-epochs 1 --lr-continuation {mode} --name more --noplots"
    run = train(parse_request(["--resume", str(runs / "finished"), *how.split()]))
    after = read_checkpoint(run / "weights" / "last.pt")
    assert (
        after["history"][:4] == before["history"][:4]
    )  # the fifth also has the metrics at the seam
    assert after["position"]["epoch"] == 6
    plan, old = Plan.from_dict(after["plan"]), Plan.from_dict(before["plan"])
    assert plan.factors()[:5] == old.factors()
    assert [segment.mode for segment in plan.seams] == ["slope-match", mode]
    record = json.loads((run / "seams.json").read_text())
    assert [seam["epoch"] for seam in record["seams"]] == [3, 5]
    audit = {item["part"]: item["status"] for item in record["continuations"][-1]["audit"]}
    changed = {part for part, status in audit.items() if status == "changed"}
    assert changed == {"learning-rate plan", "patience"}
    assert set(audit.values()) == {"restored", "changed"}


def test_earlier_seam_can_be_extended_in_another_mode(runs: Path) -> None:
    how = "--extend-epochs 1 --lr-continuation hold --name other --noplots"
    seam = runs / "finished" / "weights" / "seam_3.pt"
    run = train(parse_request(["--resume", str(seam), *how.split()]))
    plan = Plan.from_dict(read_checkpoint(run / "weights" / "last.pt")["plan"])
    assert [(segment.mode, segment.start) for segment in plan.segments] == [
        ("base", 0),
        ("hold", 3),
    ]


def test_weights_of_a_kept_run_are_loaded(runs: Path) -> None:
    loaded = load_model(runs / "finished" / "weights" / "best.pt", torch.device("cpu"))
    assert loaded.names == ("green", "red")
