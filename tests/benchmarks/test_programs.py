"""Each program runs on toy input and writes all its metrics; their values are not tested."""

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import benchmarks.checkpoint
import benchmarks.loader
import benchmarks.shapes
import benchmarks.startup
import benchmarks.step
import benchmarks.validate
import benchmarks.video
from benchmarks.startup import import_table, parse_import_times
from tests.paths import ROOT
from tests.toy import make_toy, make_toy_model, make_toy_weights, toy_arguments
from utils.errors import UserError

FAILED_COMMAND = (
    r"val.py --no-such failed; fix the error at the end of its output:\n"
    r"[\s\S]*unrecognized arguments"
)
ONCE = ["--rounds", "1", "--warm-up", "0"]
PROGRAMS = {
    "loader": benchmarks.loader.main,
    "shapes": benchmarks.shapes.main,
    "step": benchmarks.step.main,
    "validate": benchmarks.validate.main,
    "video": benchmarks.video.main,
    "checkpoint": benchmarks.checkpoint.main,
    "startup": benchmarks.startup.main,
}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    make_toy(tmp_path, images=4)
    return tmp_path / "toy.yaml"


@pytest.fixture(autouse=True)
def _same_threads() -> Any:
    """Restore the number of threads, which the loader benchmark sets to one."""
    import cv2

    threads, opencv = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(threads)
    cv2.setNumThreads(opencv)


def run_program(
    program: str, options: Sequence[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Run a program with options and return the content of its JSON file."""
    file = tmp_path / "results.json"
    once = ONCE[:2] if program == "shapes" else ONCE  # each of its processes warms up itself
    words = [*map(str, options), *once, "--json", str(file)]
    monkeypatch.setattr("sys.argv", [program, *words])
    PROGRAMS[program]()
    return json.loads(file.read_text(encoding="utf-8"))


def test_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_toy(tmp_path, images=72)  # more than the loader keeps in memory
    options = ["--data", tmp_path / "toy.yaml", "--imgsz", 96, "--batch-size", 2, "--epochs", 2]
    variants = ["--against=--cache ram", "--against=--workers 1"]
    written = run_program("loader", [*options, *variants], tmp_path, monkeypatch)
    stages = ("decode", "resize", "stretch", "HSV", "places", "labels", "draws", "rest")
    found = written["figures"]["A"]
    assert {f"{stage}, ms" for stage in stages} <= found.keys()
    shares = [found[name]["median"] for name in found if name.endswith("% of sample")]
    assert sum(shares) == pytest.approx(100)
    assert 0 < found["images decoded/sample"]["median"] <= 1
    assert "decode, ms" not in written["figures"]["B"]
    assert written["figures"]["B"]["images decoded/sample"]["median"] == 0
    assert written["figures"]["C"].keys() == {"samples/s", "samples/s/core"}
    assert written["ratios"].keys() == {"B", "C"}


def test_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--cfg", make_toy_model(tmp_path), "--imgsz", 64, "--batch-size", 2, "--boxes", 2]
    more = ["--matrix", 32, "--device", "cpu", "--against=--amp bf16 --no-channels-last"]
    written = run_program("step", [*options, *more], tmp_path, monkeypatch)
    names = "to device, forward, EMA, loss, assignment, backward, gradient norm, optimizer, outcome"
    parts = names.split(", ")
    for variant in "AB":
        found = written["figures"][variant]
        assert list(found)[: len(parts)] == [f"{part}, ms" for part in parts]
        whole = found["step, ms"]["median"]
        assert sum(found[f"{part}, ms"]["median"] for part in parts) == pytest.approx(whole)
        assert found["GFLOP/s"]["median"] > 0
        assert found["peak memory, MB"]["median"] > 0


def test_validate(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [
        "--weights",
        make_toy_weights(tmp_path),
        "--data",
        toy,
        "--imgsz",
        64,
        "--batch-size",
        2,
    ]
    written = run_program("validate", [*options, "--device", "cpu"], tmp_path, monkeypatch)
    found = written["figures"]["A"]
    stages = ("loading", "pre-process", "inference", "NMS", "metrics")
    parts = [found[f"{stage}, ms/image"]["median"] for stage in stages]
    assert all(part > 0 for part in parts)
    assert sum(parts) == pytest.approx(found["whole, ms/image"]["median"])
    assert {"mAP50", "mAP50-95", "images/s", "peak memory, MB"} <= found.keys()


def test_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--weights", make_toy_weights(tmp_path), "--frames", 3, "--imgsz", 64]
    written = run_program("video", [*options, "--device", "cpu"], tmp_path, monkeypatch)
    overlapped, one_by_one = (written["figures"][name] for name in "AB")
    assert overlapped.keys() == {"frames/s", "wall ms/frame", "processor ms/frame"}
    stages = [one_by_one[f"{s}, processor ms"]["median"] for s in ("read", "predict", "write")]
    assert sum(stages) == pytest.approx(one_by_one["processor ms/frame"]["median"], rel=0.2)


def test_checkpoint(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--data", toy, "--cfg", make_toy_model(tmp_path), "--imgsz", 64, "--batch-size", 2]
    written = run_program(
        "checkpoint", [*options, "--workers", 0, "--device", "cpu"], tmp_path, monkeypatch
    )
    adamw, sgd = (written["figures"][name] for name in "AB")
    assert 0 < adamw["stall, % of epoch"]["median"] < 100
    assert adamw["loading, ms"]["median"] > 0
    # AdamW: weights, EMA, two moments; SGD: weights, EMA, one momentum
    assert written["ratios"]["B"]["last.pt, MB"] == pytest.approx(3 / 4, abs=0.1)
    assert sgd.keys() == adamw.keys()


def test_startup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = shlex.join(toy_arguments(tmp_path, "--epochs 1"))
    options = ["train.py --help", f"--training={training}"]
    written = run_program("startup", options, tmp_path, monkeypatch)
    assert written["figures"]["A"].keys() == {
        "wall, s",
        "processor, s",
        "peak memory of a process, MB",
    }
    first = written["figures"]["B"]
    assert 0 < first["to its first epoch, s"]["median"] <= first["to its first step, s"]["median"]
    assert "torch" not in written["imports, ms"]["A"]
    assert "torch" in written["imports, ms"]["B"]


def test_failing_command_raises_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=FAILED_COMMAND):
        run_program("startup", ["val.py --no-such", "--training="], tmp_path, monkeypatch)


def test_import_times_are_summed_by_package() -> None:
    found = parse_import_times(
        "import time: self [us] | cumulative | imported package\n"
        "import time:      1500 |       1500 |     torch.nn.modules\n"
        "Epoch 0 import time:      2500 |       4000 |   torch\n"
        "import time:      9000 |      13000 | numpy\n"
    )
    assert found == {"numpy": 9.0, "torch": 4.0}
    assert import_table({"A": found, "B": {"cv2": 20.0}}).splitlines() == [
        "imports, ms      A     B",
        "cv2              -  20.0",
        "numpy          9.0     -",
        "torch          4.0     -",
        "all packages  13.0  20.0",
    ]


@pytest.mark.parametrize("program", [*PROGRAMS, "dataset", "scaling", "device"])
def test_help_imports_neither_torch_nor_matplotlib(program: str, tmp_path: Path) -> None:
    """Run the program as a file from another folder."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "benchmarks" / f"{program}.py"), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"usage: python benchmarks/{program}.py" in done.stdout
    assert "| torch\n" not in done.stderr
    assert "matplotlib" not in done.stderr


def test_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--quick", "--clock", "cpu", "--only", "shelf", "100k"]
    written = run_program(
        "shapes", [*options, "--against", ROOT, "--folder", tmp_path], tmp_path, monkeypatch
    )
    for variant in "AB":
        shelf = written["figures"]["shelf"][variant]
        parts = ("inference", "suppression", "matching", "metrics")
        whole = sum(shelf[f"{part}, ms"]["median"] for part in parts)
        assert 0 < whole < shelf["validation, ms"]["median"]  # which includes the pre-processing
        assert shelf["assignment, ms"]["median"] + shelf["loss, ms"]["median"] > 0
        assert shelf["boxes per sample"]["median"] > 25  # of 150, most are outside a mosaic or tiny
        links = written["figures"]["100k"][variant]
        assert links.keys() < shelf.keys()
        assert links["index, bytes/image"]["median"] > 0
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_shapes_reports_a_folder_that_is_no_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--quick", "--only", "shelf", "--against", tmp_path, "--folder", tmp_path]
    with pytest.raises(UserError, match=r"shelf cannot be measured in .*:\n[\s\S]*No module named"):
        run_program("shapes", options, tmp_path, monkeypatch)
