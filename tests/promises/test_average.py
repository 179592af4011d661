"""`--average K`: average.pt is the mean of the weights after the last K planned epochs."""

import json
import logging
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import read_checkpoint
from tests.promises.test_interrupts import signalled_at
from tests.promises.test_resume import differences, killed_after, resumed, same_run
from tests.toy import SIDE, toy_arguments
from train import train
from utils.datasets.eval_loader import build_eval_loader
from utils.datasets.index import build_index
from utils.errors import RunInterruptedError, UserError
from utils.evaluation.evaluate import evaluate
from utils.options.parser import parse_request
from utils.runtime.device import images_to_device
from utils.upstream.reader import read_upstream
from utils.weights import load_model

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs, the last two of which are averaged."""
    folder = tmp_path_factory.mktemp("average")
    how = "--epochs 3 --average 2 --save-period 1 --amp off --export-yolov5"
    return train(parse_request(toy_arguments(folder, f"{how} --name a")))


def extension(run: Path, how: str) -> list[str]:
    return ["--resume", str(run), "--extend-epochs", "3", "--noplots", *shlex.split(how)]


def read(run: Path, name: str) -> dict[str, Any]:
    return read_checkpoint(run / "weights" / f"{name}.pt")


def test_average_is_the_mean_of_the_weights_after_the_last_epochs(averaged: Path) -> None:
    models = [read(averaged, name)["model"] for name in ("epoch1", "epoch2")]
    mean, written = read(averaged, "last")["average"], read(averaged, "average")
    assert mean["updates"] == 2
    for name, tensor in mean["weights"].items():
        if tensor.is_floating_point():
            expected = (models[0][name].double() + models[1][name].double()) / 2
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-9)
        if not name.endswith(STATISTICS):
            assert torch.equal(written["weights"][name], tensor.half())
    assert "average" not in read(averaged, "epoch0")
    assert read(averaged, "epoch1")["average"]["updates"] == 1


def test_average_file_has_the_reported_metrics(averaged: Path) -> None:
    written = read(averaged, "average")
    reported = json.loads((averaged / "metrics.json").read_text())["average"]
    assert (written["kind"], written["epoch"], reported["epochs"]) == ("deploy", 2, 2)
    last = read(averaged, "last")
    assert reported["ema_map50_95"] == last["history"][-1]["metrics/mAP_0.5:0.95"]
    loaded = load_model(averaged / "weights" / "average.pt", torch.device("cpu"))
    folder = averaged.parents[1] / "data/images/val"
    loader = build_eval_loader(
        build_index([folder], loaded.names), image_size=SIDE, batch_size=8, workers=0
    )
    found = evaluate(loaded.model, loader, names=loaded.names, device=torch.device("cpu"))
    assert reported["map50_95"] == pytest.approx(found.map50_95, rel=1e-3)
    fitness = 0.1 * reported["map50"] + 0.9 * reported["map50_95"]
    assert written["fitness"] == pytest.approx(fitness)


def assert_yolov5_files_equal_ours(run: Path) -> None:
    config = read(run, "last")["config"]
    for name in ("best", "average"):
        own, copy = read(run, name), read_upstream(run / "weights" / f"{name}_yolov5.pt")
        assert own["weights"].keys() == copy.model_state.keys()
        assert all(torch.equal(copy.model_state[n], t) for n, t in own["weights"].items())
        assert (list(copy.names), copy.best_fitness) == (own["names"], own["fitness"])
        assert copy.options == config["options"]
        # and they are weights for a new run or a prediction
        loaded = load_model(run / "weights" / f"{name}_yolov5.pt", torch.device("cpu"))
        assert loaded.model.spec.to_dict() | {"anchors": 0} == own["spec"] | {"anchors": 0}


def test_best_and_average_are_also_written_for_yolov5(averaged: Path) -> None:
    assert_yolov5_files_equal_ours(averaged)


def test_killed_averaged_extension_equals_an_uninterrupted_one(
    averaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(parse_request(extension(averaged, "--average 2 --name whole")))
    killed = averaged.with_name("killed")
    killed_after(5, monkeypatch, extension(averaged, "--average 2 --name killed"))
    assert read(killed, "last")["average"]["updates"] == 1
    assert signalled_at(17, monkeypatch, ["--resume", str(killed), "--noplots"]) == 143
    with monkeypatch.context() as patch:
        patch.setattr("utils.training.batch_norm.images_to_device", signalling)
        with pytest.raises(RunInterruptedError):
            resumed(killed)
    assert not (killed / "weights" / "average.pt").exists()
    assert resumed(killed) == killed
    assert same_run(whole, killed) == []
    for run in (whole, killed):  # an extension inherits --export-yolov5
        assert_yolov5_files_equal_ours(run)
    [seam] = json.loads((whole / "seams.json").read_text())["continuations"]
    detail = "mean of 2 epochs ends; another begins for the last 2 epochs"
    assert {"part": "average", "status": "changed", "detail": detail} in seam["audit"]


def signalling(*arguments: Any) -> torch.Tensor:
    signal.raise_signal(signal.SIGTERM)
    return images_to_device(*arguments)


def test_extension_does_not_inherit_the_average(averaged: Path) -> None:
    run = train(parse_request(extension(averaged, "--name none")))
    assert "average" not in read(run, "last")
    assert read(run, "last")["config"]["options"]["average"] == 0
    assert read(run, "seam_3")["average"]["updates"] == 2
    assert not (run / "weights" / "average.pt").exists()


def test_impossible_averages_are_refused(
    averaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="--average 4: the extension has fewer epochs; use at mo"):
        train(parse_request(extension(averaged, "--average 4")))
    with pytest.raises(UserError, match="--average 4: the run has fewer epochs; use at most 3"):
        parse_request(toy_arguments(tmp_path, "--epochs 3 --average 4"))
    killed_after(2, monkeypatch, toy_arguments(tmp_path, "--epochs 3 --average 2 --name b"))
    resume = ["--resume", str(tmp_path / "runs" / "b"), "--noplots", "--average"]
    with pytest.raises(
        UserError, match=r"2 of the last 3 .* done, but their mean is not in .*; use at most 1, or"
    ):
        train(parse_request([*resume, "3"]))
    run = train(parse_request([*resume, "1"]))
    last = read(run, "last")
    assert last["average"]["updates"] == 1
    assert differences(last["average"]["weights"], last["model"]) == []


def test_early_stop_writes_none_and_more_patience_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "yolo")
    scores = iter([0.9, 0.1, 0.1, 0.1])
    monkeypatch.setattr("utils.training.engine.fitness", lambda _, __: next(scores))
    how = "--epochs 4 --average 3 --patience 1 --name stopped"
    run = train(parse_request(toy_arguments(tmp_path, how)))
    assert "average.pt is written: --average 3 needs the last 3 planned epochs" in caplog.text
    assert not (run / "weights" / "average.pt").exists()
    train(parse_request(["--resume", str(run), "--patience", "0", "--noplots"]))
    assert read(run, "last")["average"]["updates"] == 3
    assert read(run, "average")["epoch"] == 3
