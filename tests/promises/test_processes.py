"""Two processes train the same run as one, and either can resume the run of the other."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.checkpoints import read_checkpoint
from tests.paths import ROOT
from tests.promises.test_interrupts import signalled_at, wait_for
from tests.promises.test_resume import same_run
from tests.promises.two_processes import validation
from tests.toy import make_toy, toy_arguments
from train import train
from utils.options.parser import parse_request

# In fp32, because sums over processes round differently; with synchronized batch norm.
HOW = "--epochs 3 --sync-bn --amp off --nominal-batch-size 400 --save-period 1 --average 2"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


FAILURES = {
    "label": "error: .*2.txt",
    "image": "error: 3.png changed during the run; restore the file and restart.",
    "memory": "error: out of GPU memory; use a smaller --batch-size or --imgsz.",
    "disk": "error: cannot write .*last.pt",
    "interrupts": "interrupted",
    "options": "error: --epochs 0: must be between 1",
    "checkpoint": "error: .*nowhere.* does not exist",
}
"""What is printed once if one process, or each, fails in one of these ways."""


def start_two(arguments: list[str], program: str = "train.py") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, *shlex.split(program), *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def train_in_two(arguments: list[str]) -> str:
    with start_two(arguments) as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "Warning" not in output
    return output


def distance(one: Path, two: Path, file: str = "last.pt", key: str = "model") -> float:
    """Relative Euclidean distance of all weights of two runs."""
    pair = [read_checkpoint(run / "weights" / file)[key] for run in (one, two)]
    names = [name for name, tensor in pair[0].items() if tensor.is_floating_point()]
    vectors = [torch.cat([state[name].flatten().double() for name in names]) for state in pair]
    return float((vectors[0] - vectors[1]).norm() / vectors[0].norm())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same run in one process and in two."""
    folder = tmp_path_factory.mktemp("processes")
    one = train(parse_request(toy_arguments(folder, f"{HOW} --name one")))
    output = train_in_two(toy_arguments(folder, f"{HOW} --name two"))
    assert output.count("Training 3 epochs into") == 1  # only the main process logs
    return one, one.with_name("two")


def test_two_processes_equal_one_process(runs: tuple[Path, Path]) -> None:
    assert distance(*runs) < 1e-5
    assert distance(*runs, "average.pt", "weights") < 1e-3  # rounded to fp16
    one, two = (read_checkpoint(run / "weights" / "last.pt") for run in runs)
    assert two["config"]["processes"] == 2
    assert two["ema"]["updates"] == one["ema"]["updates"] == 4
    for mine, other in zip(one["history"], two["history"], strict=True):
        assert mine["train/box_loss"] == pytest.approx(other["train/box_loss"], rel=1e-4)
        assert mine["iteration"] == other["iteration"]


def changed_processes(run: Path) -> list[str]:
    saved = read_checkpoint(run / "weights" / "last.pt")
    [audit] = [record["audit"] for record in saved["continuations"]]
    return [item["detail"] for item in audit if item["part"] == "processes"]


def test_one_process_resumes_a_run_of_two(runs: tuple[Path, Path]) -> None:
    one, two = runs
    first_epoch = two / "weights" / "epoch0.pt"
    train(parse_request(["--resume", str(first_epoch), "--name", "alone", "--noplots"]))
    assert distance(one, one.with_name("alone")) < 1e-5
    assert changed_processes(one.with_name("alone")) == ["2 → 1"]


def test_two_processes_resume_a_run_of_one_within_a_step(runs: tuple[Path, Path]) -> None:
    one = runs[0]
    how = HOW.replace("--save-period 1", "--save-steps 1")
    arguments = toy_arguments(one.parents[1], f"{how} --name halved")
    with pytest.MonkeyPatch.context() as patch:
        assert signalled_at(5, patch, arguments) == 143
    saved = read_checkpoint(one.with_name("halved") / "weights" / "last.pt")
    assert saved["progress"]["pending"] == 2
    resume = ["--resume", str(one.with_name("halved")), "--name", "resumed", "--noplots"]
    train_in_two([*resume, "--save-steps", "1"])
    assert distance(one, one.with_name("resumed")) < 1e-5
    assert changed_processes(one.with_name("resumed")) == ["1 → 2"]


@pytest.mark.parametrize("cache", ["", "--cache ram"])
def test_two_processes_validate_like_one(tmp_path: Path, cache: str) -> None:
    """Bit for bit, also the losses; batches of 8 images, of which an odd number is left over."""
    data = make_toy(tmp_path / "data", images=13)
    how = f"--rect --batch-size 4 --amp off {cache}"
    arguments = toy_arguments(tmp_path, f"--data {data} {how}")
    alone = validation(arguments)
    program = "-m tests.promises.two_processes validate"
    with start_two([*arguments], program) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert len(found) == 2
    assert found == [json.loads(json.dumps(alone))] * 2
    assert alone["ema"][1][0] == 13


def test_processes_of_a_machine_share_one_cache_in_memory(tmp_path: Path) -> None:
    data = make_toy(tmp_path / "data")
    with start_two([str(data)], "-m tests.promises.two_processes") as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    found = [json.loads(text) for text in re.findall(r"\{.*?\}", output)]
    size = 10 * 1600**2 * 3 / 1024
    assert [one["Rss"] >= size for one in found] == [True, True]  # each maps all pages
    assert sum(one["Pss"] for one in found) < 1.1 * size
    assert found[0]["total"] == found[1]["total"] > 0
    assert [one["left"] for one in found] == [[], []]
    assert [one["weights"] for one in found] == [[1.0] * 3] * 2


def failing_arguments(case: str, folder: Path) -> list[str]:
    arguments = toy_arguments(folder, f"--epochs 3 --workers 1 --name {case}")
    if case == "label":
        (folder / "data" / "labels" / "train" / "2.txt").write_text("9 0.5 0.5 0.1 0.1")
    if case == "options":
        return [*arguments, "--epochs", "0"]
    return ["--resume", "nowhere"] if case == "checkpoint" else arguments


def test_error_of_a_process_is_printed_once_and_ends_all(tmp_path: Path) -> None:
    started = {
        case: start_two(
            [case, *failing_arguments(case, tmp_path / case)], "-m tests.promises.failing_run"
        )
        for case in FAILURES
    }
    found = {}
    for case, process in started.items():
        with process:
            output, _ = process.communicate(timeout=120)
        assert process.returncode == 1, output  # that of torchrun
        # By the name in their arguments: torchrun starts each process in a session of its own.
        name = str(tmp_path / case / "runs")
        left = subprocess.run(["pgrep", "-f", name], capture_output=True, check=False)
        last = tmp_path / case / "runs" / case / "weights" / "last.pt"
        epoch = read_checkpoint(last)["position"]["epoch"] if last.is_file() else None
        found[case] = (len(re.findall(FAILURES[case], output)), left.stdout, epoch)
        assert "the connection to another process" not in output
    early = ("label", "options", "checkpoint")
    assert found == {case: (1, b"", None if case in early else 1) for case in FAILURES}


def test_run_that_torchrun_restarts_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    def start(name: str) -> subprocess.Popen[str]:
        arguments = toy_arguments(tmp_path, f"--epochs 30 --noval --auto-resume --name {name}")
        return start_two(arguments, "--max-restarts 3 train.py")

    with start("whole") as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    whole, killed = (tmp_path / "runs" / name for name in ("whole", "killed"))
    process, results = start("killed"), killed / "results.csv"
    with process:
        wait_for(lambda: results.is_file() and len(results.read_text().splitlines()) > 2, process)
        os.kill(children_of(process.pid)[1], signal.SIGKILL)
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "Resuming" in output
    assert same_run(whole, killed) == []


def test_signal_in_the_report_of_the_first_process_ends_all(tmp_path: Path) -> None:
    arguments = toy_arguments(tmp_path, "--epochs 1 --name end --auto-resume --extend-epochs 1")
    with start_two(["end", *arguments], "-m tests.promises.failing_run") as process:
        output, _ = process.communicate(timeout=120)
    assert "Stopped by SIGTERM" in output
    assert "error:" not in output
    last = read_checkpoint(tmp_path / "runs" / "end" / "weights" / "last.pt")
    assert (last["position"]["epoch"], last["closed"]) == (1, False)


def children_of(process: int) -> list[int]:
    listed = subprocess.check_output(["ps", "-e", "-o", "pid=,ppid="], text=True)
    pairs = [line.split() for line in listed.splitlines()]
    return sorted(int(child) for child, parent in pairs if int(parent) == process)


def start_long(folder: Path, name: str) -> tuple[subprocess.Popen[str], Path]:
    """A run of two processes that has trained some epochs."""
    process = start_two(toy_arguments(folder, f"--epochs 2000 --noval --name {name}"))
    run = folder / "runs" / name
    results = run / "results.csv"
    wait_for(lambda: results.is_file() and len(results.read_text().splitlines()) > 2, process)
    return process, run


def test_killed_process_ends_the_others_and_the_run_can_be_resumed(
    runs: tuple[Path, Path],
) -> None:
    process, run = start_long(runs[0].parents[1], "one-killed")
    with process:
        os.kill(children_of(process.pid)[1], signal.SIGKILL)
        began = time.monotonic()
        output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - began < 45
    assert "the connection to another process of this run is lost" in output
    epochs = read_checkpoint(run / "weights" / "last.pt")["position"]["epoch"]
    assert 1 < epochs < 2000


def test_signal_stops_all_processes_after_the_same_step(runs: tuple[Path, Path]) -> None:
    process, run = start_long(runs[0].parents[1], "stopped")
    with process:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    saved = read_checkpoint(run / "weights" / "last.pt")
    position, done = saved["position"], saved["progress"]["batches"]
    assert position["iteration"] == 3 * position["epoch"] + done
    [logged] = [line for line in output.splitlines() if "To resume: " in line]
    command = shlex.split(logged.split("To resume: ")[1])
    assert command[:3] == ["torchrun", "--nproc_per_node", "2"]
    assert command[3:6] == ["train.py", "--resume", str(run)]
