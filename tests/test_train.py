import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import train as script
from tests.checkpoints import read_checkpoint
from tests.paths import ROOT
from tests.toy import toy_arguments
from utils.errors import UserError
from utils.history import COLUMNS, read_results
from utils.options.parser import parse_request
from utils.options.script import run_script

OUTPUTS = {
    ".lock",
    "opt.yaml",
    "hyp.yaml",
    "results.csv",
    "results.png",
    "lr_map.png",
    "labels.jpg",
    "labels_correlogram.jpg",
    "train_batch0.jpg",
    "train_batch1.jpg",
    "train_batch2.jpg",
    "val_batch0_labels.jpg",
    "val_batch0_pred.jpg",
    "PR_curve.png",
    "F1_curve.png",
    "P_curve.png",
    "R_curve.png",
    "confusion_matrix.png",
    "metrics.json",
    "weights",
}


def arguments_without(flag: str, arguments: list[str]) -> list[str]:
    return [argument for argument in arguments if argument != flag]


def test_run_writes_the_files_of_a_yolov5_run(tmp_path: Path) -> None:
    more = "--epochs 2 --save-period 1"
    folder = script.train(
        parse_request(arguments_without("--noplots", toy_arguments(tmp_path, more)))
    )
    left = {file.name for file in folder.iterdir() if "tfevents" not in file.name}
    [digests] = folder.glob("images_*.npz")
    left -= {digests.name}
    assert left >= OUTPUTS
    assert left - OUTPUTS <= {"val_batch1_labels.jpg", "val_batch1_pred.jpg"}
    assert {file.name for file in (folder / "weights").iterdir()} == {
        "last.pt",
        "last_prev.pt",
        "best.pt",
        "epoch0.pt",
        "epoch1.pt",
    }
    rows = read_results(folder / "results.csv")
    assert [list(row) for row in rows] == [list(COLUMNS)] * 2
    assert {"precision", "recall", "map50", "map50_95"} <= set(
        json.loads((folder / "metrics.json").read_text())
    )
    best = torch.load(folder / "weights" / "best.pt", weights_only=True)
    assert {t.dtype for t in best["weights"].values()} == {torch.float16, torch.int64}


def test_noval_and_nosave_apply_to_all_but_the_last_epoch(tmp_path: Path) -> None:
    """The validation images have no boxes."""
    arguments = toy_arguments(tmp_path, "--epochs 2 --noval --nosave")
    shutil.rmtree(tmp_path / "data" / "labels" / "val")
    folder = script.train(parse_request(arguments))
    first, last = (row["metrics/mAP_0.5"] for row in read_results(folder / "results.csv"))
    assert math.isnan(first)
    assert last == 0
    assert not (folder / "weights" / "epoch0.pt").exists()


def test_nosave_replaces_the_best_weights_of_before_an_extension(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.1, 0.3, 0.2])
    monkeypatch.setattr("utils.training.engine.fitness", lambda _, __: next(scores))
    folder = script.train(parse_request(toy_arguments(tmp_path, "--epochs 1")))
    extend = ["--resume", str(folder), "--extend-epochs", "2", "--nosave", "--noplots"]
    script.train(parse_request(extend))
    # the best epoch, 1, was not saved
    assert read_checkpoint(folder / "weights" / "best.pt")["epoch"] == 2


def test_run_without_improvement_stops_early_and_can_be_extended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("training.engine", "checkpoint.format", "history"):
        monkeypatch.setattr(f"utils.{module}.fitness", lambda _, __: 0.5)
    folder = script.train(parse_request(toy_arguments(tmp_path, "--epochs 9 --patience 2")))
    assert read_checkpoint(folder / "weights" / "best.pt")["epoch"] == 2  # the newest of equal ones
    assert len(read_results(folder / "results.csv")) == 3
    assert read_checkpoint(folder / "weights" / "last.pt")["stopped_early"]
    with pytest.raises(
        UserError, match=r"stopped early after 3 of 9 epochs, .* add --extend-epochs X to extend"
    ):
        script.train(parse_request(["--resume", str(folder)]))
    extend = ["--resume", str(folder), "--extend-epochs", "7", "--lr-continuation", "hold"]
    script.train(parse_request(extend))
    assert len(read_results(folder / "results.csv")) == 5  # patience restarted at the seam


@pytest.mark.parametrize("option", ["", " --freeze-bn"])
def test_statistics_of_frozen_layers_move_unless_they_are_held(
    tmp_path: Path, option: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "yolo")
    arguments = toy_arguments(tmp_path, f"--epochs 2 --freeze 3 --average 1{option}")
    folder = script.train(parse_request(arguments))
    says = "stay." if option else "move, as in YOLOv5; hold them with --freeze-bn."
    assert f"layers [0, 1, 2]; their batch-norm statistics {says}" in caplog.text
    last = read_checkpoint(folder / "weights" / "last.pt")
    states = [last["model"], last["ema"]["weights"]]
    states.append(read_checkpoint(folder / "weights" / "average.pt")["weights"])
    for state in states:
        means = {name: m for name, m in state.items() if name.endswith("running_mean")}
        frozen = [name for name in means if int(name.split(".")[1]) < 3]
        assert len(frozen) == 7
        still = {name for name, mean in means.items() if not mean.any()}  # as at the start
        assert still == ({*frozen} if option else set())


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys, train\n"
        "heavy = {'torch', 'numpy', 'cv2', 'matplotlib', 'pandas', 'torchvision'}\n"
        "sys.exit(f'imported: {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def no_labels(folder: Path) -> list[str]:
    arguments = toy_arguments(folder)
    for file in (folder / "data" / "labels").rglob("*.txt"):
        file.unlink()
    return arguments


def class_out_of_range(folder: Path) -> list[str]:
    arguments = toy_arguments(folder)
    (folder / "data" / "labels" / "train" / "3.txt").write_text("2 0.5 0.5 0.2 0.2")
    return arguments


def unknown_hyp(folder: Path) -> list[str]:
    (folder / "hyp.yaml").write_text("lr00: 0.1")
    return toy_arguments(folder, f"--hyp {folder / 'hyp.yaml'}")


def text_named_pt(folder: Path) -> list[str]:
    (folder / "a.pt").write_text("not weights")
    return ["--resume", str(folder / "a.pt")]


def text_as_weights(folder: Path) -> list[str]:
    return [*toy_arguments(folder), "--weights", text_named_pt(folder)[1]]


def cut_in_half(folder: Path) -> list[str]:
    run = script.train(parse_request(toy_arguments(folder, "--epochs 1 --noval")))
    last = run / "weights" / "last.pt"
    content = last.read_bytes()
    last.write_bytes(content[: len(content) // 2])
    last.with_name("last_prev.pt").unlink()
    return ["--resume", str(run), "--extend-epochs", "1"]


def other_classes(folder: Path) -> list[str]:
    run = script.train(parse_request(toy_arguments(folder, "--epochs 1 --noval")))
    file = folder / "data" / "toy.yaml"
    file.write_text(file.read_text().replace("green", "blue"))
    return ["--resume", str(run), "--extend-epochs", "1"]


def empty_folder(folder: Path) -> list[str]:
    return ["--resume", str(folder), "--extend-epochs", "1"]


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (lambda _: ["--data", "none.yaml"], "data-set file none.yaml does not exist"),
        (no_labels, "images.* has no boxes; put the label files where they are read, for example"),
        (
            class_out_of_range,
            r"labels/train/3\.txt: class 2 is out of range \(classes are 0 to 1\)",
        ),
        (unknown_hyp, "unknown key lr00; known keys are"),
        (lambda _: ["--extend-epochs", "3"], "--extend-epochs needs --resume; add --resume PATH"),
        (
            lambda f: ["--resume", str(f), "--lr-continuation", "hold"],
            "--lr-continuation needs --extend-epochs",
        ),
        (lambda f: ["--resume", str(f / "x.pt")], r"x\.pt does not exist"),
        (empty_folder, r"contains no weights/last\.pt to resume"),
        (text_named_pt, r"a\.pt is not a checkpoint"),
        (text_as_weights, r"a\.pt is not a checkpoint"),
        (cut_in_half, r"last\.pt is not a checkpoint, or it is truncated"),
        (other_classes, "other classes than the run: kept 1 .red., new 1 .blue., dropped 1"),
        (lambda f: [*toy_arguments(f), "--cfg", ""], "add --cfg, e.g. --cfg yolov5n"),
        (lambda f: [*toy_arguments(f), "--cfg", "x.yaml"], r"model file x\.yaml does not exist"),
        (lambda f: [*toy_arguments(f), "--device", "7"], "--device 7: this machine has"),
        (lambda f: [*toy_arguments(f), "--freeze", "25"], "--freeze leaves no parameter to train"),
        (
            lambda f: [*toy_arguments(f), "--freeze", "99"],
            "--freeze 99: the model has 25 layers, 0 to 24; choose other layers",
        ),
    ],
)
def test_invalid_input_is_one_sentence_and_exit_code_two(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    bad: Callable[[Path], list[str]],
    sentence: str,
) -> None:
    arguments = bad(tmp_path)
    folders = set((tmp_path / "runs").glob("*"))
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_script(script.main)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2
    assert last.startswith("error: ")
    assert re.search(sentence, last), last
    assert set((tmp_path / "runs").glob("*")) == folders  # no run folder was created
