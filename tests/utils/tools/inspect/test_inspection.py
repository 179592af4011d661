"""`python -m utils.tools.inspect`: its exact output."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import save_checkpoint
from tests.paths import ROOT, SHARED, requires_shared
from tests.utils.checkpoint.pickle_text import program, write_archive
from tests.utils.checkpoint.tiny_files import (
    STORAGES,
    tiny_content,
    tiny_deploy,
    tiny_training,
    tiny_upstream_run,
)
from utils.options.script import run_script
from utils.tools.inspect.__main__ import main

TRAINING_JSON = {
    "format": "yolov5-extend",
    "version": 1,
    "kind": "training",
    "epoch": 5,
    "step": 40,
    "under_way": None,
    "planned": 6,
    "segments": [
        {"mode": "base", "start": 0, "epochs": 4},
        {"mode": "rebase", "start": 4, "epochs": 2},
    ],
    "ema_updates": 20,
    "averaged_epochs": None,
    "optimizer": {"name": "SGD", "buffers": 1, "parameters": 1},
    "scaler": None,
    "history": 5,
    "best": {"fitness": 0.125, "epoch": 3},
    "model": {
        "parameters": 6,
        "tensors": 4,
        "number_format": "float32",
        "depth_multiple": 0.33,
        "width_multiple": 0.25,
    },
    "classes": ["red cell", "zebra"],
    "software": {"torch": "2.14.0", "python": "3.11.7"},
    "resume": {
        "possible": True,
        "how": "use --resume",
        "there": [
            *("non-EMA weights", "EMA and its counter", "optimizer buffers", "learning-rate plan"),
            *("position", "AMP scaler", "history", "options and hyper-parameters"),
            "data-set facts",
        ],
        "missing": [],
    },
}
TRAINING_TEXT = """\
  kind        training, yolov5-extend, version 1
  epochs      5 completed, 6 planned, step 40
  segment     base, 4 epochs: 0 … 3
  segment     rebase, 2 epochs: 4 … 5
  EMA         counter 20
  optimizer   SGD, 1 buffers of 1 parameters
  AMP scaler  none
  history     5 epochs
  best        fitness 0.125 in epoch 3
  model       6 parameters, 4 tensors, float32, depth 0.33, width 0.25
  classes     2: red cell, zebra
  software    torch 2.14.0, python 3.11.7
  resume      use --resume
    present   non-EMA weights, EMA and its counter, optimizer buffers, learning-rate plan, \
position, AMP scaler, history, options and hyper-parameters, data-set facts
    missing   nothing
"""
UPSTREAM_TEXT = """\
  kind        training, YOLOv5, version v7.0
  epochs      5 completed, 9 planned
  EMA         counter 12
  optimizer   SGD, 1 buffers of 1 parameters
  AMP scaler  none
  history     0 epochs
  best        fitness 0.5
  model       8 parameters, 4 tensors, float32, depth 0.33, width 0.25
  classes     1: cell
  software    date 2024-01-01
  resume      use --resume; missing parts are computed or reset
    present   weights, rounded to fp16, non-EMA weights, EMA counter, \
optimizer buffers, position, planned total, options
    missing   full precision, AMP scaler, data order
"""
DEPLOY_TEXT = """\
  kind        deploy, yolov5-extend, version 1
  epochs      8 completed
  EMA         not in the file
  optimizer   not in the file
  AMP scaler  none
  history     0 epochs
  best        fitness 0.5 in epoch 7
  model       6 parameters, 1 tensors, float16, depth 0.33, width 0.5
  classes     1: cell
  software    not in the file
  resume      not possible, the file was stripped for inference; resume from the last.pt in its \
folder, or start a new run with --weights
    present   weights, rounded to fp16
    missing   non-EMA weights, EMA counter, optimizer buffers, learning-rate plan, position, \
history, options and hyper-parameters
"""


class Outcome:
    """Exit code and output of the program."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["checkpoint", *map(str, words)])
        try:
            run_script(main)
            self.code: Any = 0
        except SystemExit as end:
            self.code = end.code
        self.out, self.err = capsys.readouterr()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda *words: Outcome(monkeypatch, capsys, *words)


def upstream_file(path: Path, content: Any) -> Path:
    return write_archive(path, program(content), STORAGES)


def members_of(path: Path) -> int:
    """Return the number of members, which depends on the version of torch."""
    with zipfile.ZipFile(path) as archive:
        return len(archive.namelist())


def flip_tensor_byte(path: Path, tensor: torch.Tensor) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(tensor.numpy().tobytes()) + 1] ^= 4
    path.write_bytes(content)


def test_training_file(tmp_path: Path, run: Any) -> None:
    file = tmp_path / "weights" / "last.pt"
    file.parent.mkdir()
    save_checkpoint(tiny_training(), file)
    for target in (file, tmp_path, tmp_path / "weights"):  # a run folder stands for its last.pt
        found = run(target)
        assert (found.code, found.err) == (0, "")
        first, _, rest = found.out.partition("\n")
        assert first == f"{file}, {file.stat().st_size:,} bytes"
        assert rest == TRAINING_TEXT
    found = run(tmp_path, "--json")
    assert (found.code, found.err) == (0, "")
    size = file.stat().st_size
    assert json.loads(found.out) == {"file": str(file), "bytes": size} | TRAINING_JSON


def test_file_with_a_mean_of_epochs(tmp_path: Path, run: Any) -> None:
    mean = {"weights": {"model.0.conv.weight": torch.ones(2, 3)}, "updates": 2}
    save_checkpoint(tiny_training(average=mean), tmp_path / "last.pt")
    found = run(tmp_path, "--verify").out
    assert "  average     mean of the weights after 2 epochs\n" in found
    assert "all 10 tensors are finite" in found
    assert json.loads(run(tmp_path, "--json").out)["averaged_epochs"] == 2


@pytest.mark.parametrize("mean", [[], None, {"updates": 2}, {"weights": {}, "updates": "2"}])
def test_damaged_mean_is_refused(tmp_path: Path, run: Any, mean: Any) -> None:
    save_checkpoint(tiny_training(average=mean), tmp_path / "last.pt")
    found = run(tmp_path)
    assert found.code == 2
    assert "is damaged (" in found.err


def test_deploy_file(tmp_path: Path, run: Any) -> None:
    save_checkpoint(tiny_deploy(), tmp_path / "best.pt")
    assert run(tmp_path / "best.pt").out.partition("\n")[2] == DEPLOY_TEXT
    save_checkpoint(tiny_deploy(fitness=float("nan")), tmp_path / "best.pt")
    found = json.loads(run(tmp_path / "best.pt", "--json").out)
    assert found["best"] == {"fitness": None, "epoch": 7}  # JSON has no NaN
    assert found["resume"]["possible"] is False


def test_file_saved_within_an_epoch(tmp_path: Path, run: Any) -> None:
    progress = {"batches": 7, "counted": 6, "losses": torch.ones(3), "pending": 2, "skipped": 1}
    unfinished = progress | {"bad_losses": 0, "bad_gradients": 0, "gradients": {}}
    save_checkpoint(tiny_training(progress=unfinished, scaler={"scale": 4096.0}), tmp_path / "a.pt")
    lines = run(tmp_path / "a.pt").out.splitlines()
    assert (
        "  epochs      5 completed, 6 planned, step 40; 7 batches into the next one, "
        "2 of them not yet applied" in lines
    )
    assert "  AMP scaler  scale 4096.0" in lines
    assert "    missing   accumulated gradients" in lines


@pytest.mark.parametrize(
    ("changes", "missing", "how"),
    [
        ({"optimizer": {"name": "SGD", "buffers": {}}}, ["optimizer buffers"], "use --resume"),
        ({"history": []}, ["history"], "use --resume"),
        (
            {"stopped_early": True},
            [],
            "the run has ended; use --resume with --extend-epochs X",
        ),
        (
            {"config": tiny_training()["config"] | {"precision": "fp16"}},
            ["AMP scaler"],
            "use --resume",
        ),
    ],
)
def test_missing_parts_of_a_training_file(
    tmp_path: Path, run: Any, changes: dict[str, Any], missing: list[str], how: str
) -> None:
    save_checkpoint(tiny_training(**changes), tmp_path / "a.pt")
    resume = json.loads(run(tmp_path / "a.pt", "--json").out)["resume"]
    assert resume["missing"] == missing
    assert resume["how"] == how


def test_unstripped_upstream_file(tmp_path: Path, run: Any) -> None:
    file = upstream_file(tmp_path / "last.pt", tiny_upstream_run())
    assert run(file).out.partition("\n")[2] == UPSTREAM_TEXT


def test_stripped_upstream_file(tmp_path: Path, run: Any) -> None:
    file = upstream_file(tmp_path / "last.pt", tiny_content(epoch=-1, best_fitness=None))
    found = json.loads(run(file, "--json").out)
    assert found["kind"] == "deploy"
    assert found["version"] == "v6.0"
    for part in ("epoch", "step", "planned", "ema_updates", "optimizer", "best"):
        assert found[part] is None
    assert found["resume"]["how"].startswith("use --resume with --allow-partial-state")
    assert found["resume"]["there"] == ["weights, rounded to fp16"]


@requires_shared
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v5.0/epoch1.pt", (2, 3, 16, 183, 2, 1_882_525)),
        ("v7/epoch1.pt", (2, 4, 16, 177, 0, 1_872_157)),
        ("v5.0/last_stripped.pt", (None, None, None, None, 0, 1_882_525)),
        ("v7/last_stripped.pt", (None, 4, None, None, 0, 1_872_157)),
    ],
)
def test_files_written_by_upstream(run: Any, name: str, expected: tuple[Any, ...]) -> None:
    found = run(SHARED / "legacy" / name, "--json", "--verify")
    assert found.code == 0
    facts = json.loads(found.out)
    optimizer = facts["optimizer"] and facts["optimizer"]["buffers"]
    parameters = facts["model"]["parameters"]
    assert expected == (
        *(facts["epoch"], facts["planned"], facts["ema_updates"]),
        *(optimizer, facts["history"], parameters),
    )
    assert facts["verified"]["fine"] is True


class TestVerify:
    def test_intact_file(self, tmp_path: Path, run: Any) -> None:
        save_checkpoint(tiny_training(), tmp_path / "last.pt")
        found = run(tmp_path, "--verify")
        assert found.code == 0
        members = members_of(tmp_path / "last.pt")
        assert found.out.splitlines()[-1] == (
            f"Verified: the checksums of all {members} members are correct, "
            "and all 9 tensors are finite."
        )
        assert json.loads(run(tmp_path, "--verify", "--json").out)["verified"] == {
            "fine": True,
            "members": members,
            "tensors": 9,
            "wrong_sums": [],
            "not_finite": [],
            "advice": "",
        }

    def test_non_finite_tensors_are_named(self, tmp_path: Path, run: Any) -> None:
        bad = {f"w{number}": torch.tensor([1.0, float("nan")]) for number in range(6)}
        bad["fine"], bad["count"] = torch.ones(1), torch.tensor([3])
        bad["infinite"] = torch.tensor([float("inf")]).bfloat16()
        save_checkpoint(tiny_training(model=bad), tmp_path / "last.pt")
        found = run(tmp_path, "--verify")
        assert found.code == 1
        assert found.out.splitlines()[-1] == (
            "Damaged: 7 of 14 tensors are not finite: "
            "model.w0, model.w1, model.w2, model.w3, model.w4, …; "
            f"the checksums of all {members_of(tmp_path / 'last.pt')} members are correct."
        )
        verified = json.loads(run(tmp_path, "--verify", "--json").out)["verified"]
        assert verified["not_finite"][-1] == "model.infinite"

    def test_non_finite_tensors_of_an_upstream_file(self, tmp_path: Path, run: Any) -> None:
        broken = STORAGES | {"1": b"\0\0\xc0\x7f" * 2}  # NaN
        file = write_archive(tmp_path / "a.pt", program(tiny_upstream_run()), broken)
        found = json.loads(run(file, "--verify", "--json").out)["verified"]
        assert found["not_finite"] == [
            *("model.model.0.bn.weight", "model.model.0.bn.bias"),
            *("ema.model.0.bn.weight", "ema.model.0.bn.bias"),
            "optimizer.state.0.momentum_buffer",
        ]

    @pytest.mark.parametrize("previous", ["intact", "damaged", "missing"])
    def test_wrong_checksum(self, tmp_path: Path, run: Any, previous: str) -> None:
        file, before = tmp_path / "last.pt", tmp_path / "last_prev.pt"
        save_checkpoint(tiny_training(), file)
        flip_tensor_byte(file, torch.full((2, 3), 0.25))
        expected = f"Damaged: 1 of {members_of(file)} members have a wrong checksum: data/8."
        if previous == "intact":
            save_checkpoint(tiny_training(position={"epoch": 4, "iteration": 32}), before)
            expected += f" {before} is intact: 4 epochs completed, step 32."
        elif previous == "damaged":
            before.write_bytes(b"")
            expected += (
                f" The previous checkpoint cannot be used either: {before} is not a checkpoint, "
                "it is empty; use another checkpoint."
            )
        found = run(file, "--verify")
        assert (found.code, found.err) == (1, "")
        assert found.out.splitlines()[1:] == [expected]
        output = json.loads(run(file, "--verify", "--json").out)
        assert output["verified"]["wrong_sums"] == ["data/8"]
        assert expected.endswith(output["verified"]["advice"])
        assert bool(output["verified"]["advice"]) is (previous != "missing")
        assert "model" not in output  # the content cannot be trusted


@pytest.mark.parametrize("options", [(), ("--json",), ("--verify",), ("--verify", "--json")])
def test_unreadable_file(tmp_path: Path, run: Any, options: tuple[str, ...]) -> None:
    file = tmp_path / "last.pt"
    file.write_bytes(b"PK\3\4" + b"\0" * 50)
    save_checkpoint(tiny_training(), tmp_path / "last_prev.pt")
    found = run(file, *options)
    assert (found.code, found.out) == (2, "")
    assert found.err == (
        f"error: {file} is not a checkpoint, or it is truncated: its zip directory is missing "
        f"or wrong; use another checkpoint. {tmp_path / 'last_prev.pt'} is intact: "
        "5 epochs completed, step 40.\n"
    )


def test_damaged_file_is_refused_without_verify(tmp_path: Path, run: Any) -> None:
    file = tmp_path / "best.pt"
    save_checkpoint(tiny_training(), file)
    flip_tensor_byte(file, torch.full((2, 3), 0.25))
    found = run(file)
    assert (found.code, found.out) == (2, "")
    assert found.err == (
        f"error: {file} is damaged (the checksum of data/8 is wrong); use another checkpoint.\n"
    )


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("none.pt", "none.pt does not exist; give the path of a checkpoint"),
        (".", "is not a checkpoint, it is a folder or a device; give the path of a checkpoint"),
    ],
)
def test_missing_file(tmp_path: Path, run: Any, target: str, message: str) -> None:
    found = run(tmp_path / target)
    assert found.code == 2
    assert message in found.err


def test_values_of_the_wrong_type_are_refused(tmp_path: Path, run: Any) -> None:
    cases: list[dict[str, Any]] = [
        {"plan": {}},
        {"optimizer": {"name": "SGD", "buffers": [1]}},
        {"position": {"epoch": "five", "iteration": 40}},
        {"best": {"fitness": "0.5", "epoch": 3}},
        {"best": {"fitness": [], "epoch": 3}},
        {"config": tiny_training()["config"] | {"names": [3]}},
        {"model": {"w": "no tensor"}},
    ]
    for changes in cases:
        save_checkpoint(tiny_training(**changes), tmp_path / "last.pt")
        found = run(tmp_path)
        assert found.code == 2
        assert "is damaged (a value is of the wrong type: " in found.err


def test_control_characters_in_names_are_escaped(tmp_path: Path, run: Any) -> None:
    names = ["a\x1b[2Jb", "two\nlines", "größe"]
    config = tiny_training()["config"] | {"names": names}
    save_checkpoint(tiny_training(config=config), tmp_path / "last.pt")
    assert r"  classes     3: a\x1b[2Jb, two\nlines, größe" in run(tmp_path).out.splitlines()
    assert json.loads(run(tmp_path, "--json").out)["classes"] == names


def test_help_imports_no_torch() -> None:
    program = (
        "import runpy, sys\n"
        "sys.argv = ['checkpoint', '--help']\n"
        "try:\n"
        "    runpy.run_module('utils.tools.inspect', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        "    sys.exit(end.code or 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--verify" in done.stdout
