"""A run that is interrupted at any step resumes with the next batch and ends identically."""

import logging
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from models.loss import DetectionLoss
from tests.checkpoints import read_checkpoint
from tests.paths import ROOT
from tests.promises.test_resume import same_run
from tests.toy import toy_arguments
from train import train
from utils.errors import LoadError, RunInterruptedError, UserError
from utils.options.parser import parse_request
from utils.training.recorder import RunRecorder
from utils.training.state import TrainingState
from utils.training.validation import Evaluator

# Three epochs with batches of 4, 4 and 2 images. The run is shorter than the 100 iterations of
# warm-up, in which a step accumulates 1, 2, 3, 4 ... batches, or the rest of the epoch.
HOW = "--epochs 3 --nominal-batch-size 400 --multi-scale --amp off"
STEPS = 9
WITHIN_A_STEP = {2, 4, 5, 7, 8}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupted")
    return train(parse_request(toy_arguments(folder, f"{HOW} --name whole")))


def signalled_at(
    step: int, patch: pytest.MonkeyPatch, arguments: list[str], name: str = "SIGTERM"
) -> int:
    """Train until a signal arrives in step `step`, counted from 1; returns the exit code."""
    save_on_step = RunRecorder.save_on_step

    def with_signal(recorder: RunRecorder, state: TrainingState) -> None:
        save_on_step(recorder, state)
        if state.iteration == step:
            signal.raise_signal(signal.Signals[name])

    with patch.context() as inner:
        inner.setattr(RunRecorder, "save_on_step", with_signal)
        try:
            train(parse_request(arguments))
        except RunInterruptedError as stop:
            return stop.exit_code  # keeps no reference to the frames, whose loaders have workers
    raise AssertionError("the run was not interrupted")


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_run_interrupted_at_any_step_equals_uninterrupted_run(
    whole: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"after{step}"
    arguments = toy_arguments(whole.parents[1], f"{HOW} --name {name}")
    signalled_at(step, monkeypatch, arguments)
    run = whole.with_name(name)
    saved = read_checkpoint(run / "weights" / "last.pt")
    assert saved["position"]["iteration"] == step
    assert saved["progress"]["batches"] == (step - 1) % 3 + 1
    assert bool(saved["progress"]["gradients"]) == (step in WITHIN_A_STEP)
    train(parse_request(["--resume", str(run), "--noplots"]))
    assert same_run(whole, run) == []


def test_run_interrupted_after_every_step_equals_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = "--amp bf16 --optimizer AdamW --workers 2"
    one = train(parse_request(toy_arguments(tmp_path, f"{HOW} {how} --name one")))
    run = one.with_name("chain")
    signalled_at(1, monkeypatch, toy_arguments(tmp_path, f"{HOW} {how} --name chain"))
    for step in range(2, STEPS + 1):
        signalled_at(step, monkeypatch, ["--resume", str(run), "--noplots"])
    train(parse_request(["--resume", str(run), "--noplots"]))
    assert same_run(one, run) == []


def test_signal_during_validation_repeats_only_the_validation(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = Evaluator.collect

    def signalled(self: Evaluator, *more: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return collect(self, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "collect", signalled)
        with pytest.raises(RunInterruptedError):
            train(parse_request(toy_arguments(whole.parents[1], f"{HOW} --name validated")))
    run = whole.with_name("validated")
    saved = read_checkpoint(run / "weights" / "last.pt")
    assert saved["position"] == {"epoch": 0, "iteration": 3}
    assert saved["history"] == []
    train(parse_request(["--resume", str(run), "--noplots"]))
    assert same_run(whole, run) == []


def test_run_resumes_from_a_checkpoint_within_an_epoch(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    save_on_step = RunRecorder.save_on_step

    def killed(recorder: RunRecorder, state: TrainingState) -> None:
        save_on_step(recorder, state)
        if state.iteration == 5:
            raise KilledError

    arguments = toy_arguments(whole.parents[1], f"{HOW} --name steps --save-steps 2")
    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "save_on_step", killed)
        with pytest.raises(KilledError):
            train(parse_request(arguments))
    run = whole.with_name("steps")
    assert read_checkpoint(run / "weights" / "last.pt")["position"]["iteration"] == 4
    train(parse_request(["--resume", str(run), "--noplots", "--save-steps", "0"]))
    assert same_run(whole, run) == []


def killed_at(step: int, patch: pytest.MonkeyPatch, arguments: list[str], number: int) -> str:
    """Train until a loader worker dies within step `step`, before its backward pass."""
    call = DetectionLoss.__call__
    done: list[None] = []

    def kill(self: DetectionLoss, *more: Any) -> Any:
        if torch.is_grad_enabled():
            done.append(None)
            if len(done) == 1 + step:  # the first is a trial of the largest size
                worker = max(child.pid or 0 for child in multiprocessing.active_children())
                os.kill(worker, number)
                os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
        return call(self, *more)

    with patch.context() as inner:
        inner.setattr(DetectionLoss, "__call__", kill)
        try:
            train(parse_request(arguments))
        except LoadError as error:
            return str(error)
    raise AssertionError("the run was not stopped")


def test_run_whose_workers_are_killed_is_saved_after_the_step(
    whole: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = toy_arguments(whole.parents[1], f"{HOW} --name killed --workers 1")
    run = whole.with_name("killed")
    resume = ["--resume", str(run), "--noplots"]
    logging.getLogger("yolo").propagate = True
    with caplog.at_level(logging.INFO, "yolo"):
        message = killed_at(2, monkeypatch, arguments, signal.SIGKILL)
    assert re.search(r"killed by signal: Killed.*; use fewer --workers", message)
    assert (
        f"Stopped by an error after a complete step, and saved. To resume: python train.py "
        f"--resume {run}" in caplog.text
    )
    assert read_checkpoint(run / "weights" / "last.pt")["position"]["iteration"] == 2
    message = killed_at(3, monkeypatch, resume, signal.SIGSEGV)
    assert "killed by signal: Segmentation fault" in message
    assert read_checkpoint(run / "weights" / "last.pt")["position"]["iteration"] == 5
    train(parse_request([*resume, "--workers", "0"]))
    assert same_run(whole, run) == []


def test_lack_of_memory_within_a_step_keeps_the_last_saved_state(
    whole: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backward = torch.Tensor.backward

    calls: list[None] = []

    def fail(self: torch.Tensor) -> None:
        backward(self)
        calls.append(None)
        if len(calls) == 5:
            torch.empty(1 << 50, dtype=torch.uint8)

    arguments = toy_arguments(whole.parents[1], f"{HOW} --name memory")
    with monkeypatch.context() as patch, caplog.at_level(logging.INFO, "yolo"):
        patch.setattr(torch.Tensor, "backward", fail)
        with pytest.raises(UserError, match="out of CPU memory; use a smaller --batch-size"):
            train(parse_request(arguments))
    run = whole.with_name("memory")
    assert read_checkpoint(run / "weights" / "last.pt")["position"]["iteration"] == 3
    assert f"saved before it. To resume: python train.py --resume {run}" in caplog.text
    train(parse_request(["--resume", str(run), "--noplots"]))
    assert same_run(whole, run) == []


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGUSR1", 85)])
def test_every_signal_has_its_exit_code(
    tmp_path: Path, name: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.Signals[name])
    assert signalled_at(1, monkeypatch, toy_arguments(tmp_path, "--epochs 1"), name) == code
    assert signal.getsignal(signal.Signals[name]) is before


def test_repeated_signals_while_saving_are_harmless(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = RunRecorder.save

    def signalled(recorder: RunRecorder, state: TrainingState) -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        save(recorder, state)

    monkeypatch.setattr(RunRecorder, "save", signalled)
    arguments = toy_arguments(whole.parents[1], f"{HOW} --name again")
    assert signalled_at(2, monkeypatch, arguments) == 143
    last = whole.with_name("again") / "weights" / "last.pt"
    assert read_checkpoint(last)["position"]["iteration"] >= 1


def test_signal_during_the_resume_validation_changes_nothing(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = toy_arguments(whole.parents[1], f"{HOW} --name measured")
    signalled_at(4, monkeypatch, arguments)
    run = whole.with_name("measured")
    collect = Evaluator.collect

    def signalled(self: Evaluator, *more: Any) -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return collect(self, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "collect", signalled)
        with pytest.raises(RunInterruptedError) as stop:
            train(parse_request(["--resume", str(run), "--noplots"]))
    assert stop.value.exit_code == 85
    assert read_checkpoint(run / "weights" / "last.pt")["position"]["iteration"] == 4
    train(parse_request(["--resume", str(run), "--noplots"]))
    assert same_run(whole, run) == []


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_printed_command_resumes_a_terminated_run(tmp_path: Path) -> None:
    # Like a terminal or a scheduler, send the signal to the whole process group, with the workers.
    how = "--epochs 9 --workers 2 --noval --name"
    arguments = toy_arguments(tmp_path, f"{how} killed")
    killed = tmp_path / "runs" / "killed"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        results = killed / "results.csv"
        wait_for(lambda: results.is_file() and len(results.read_text().splitlines()) > 1, process)
        os.killpg(process.pid, signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    [command] = re.findall(r"To resume: python (.*)", output)
    assert read_checkpoint(killed / "weights" / "last.pt")["position"]["epoch"] < 9
    subprocess.run(
        [sys.executable, *shlex.split(command)],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
    )
    whole = subprocess.run(
        [sys.executable, "train.py", *toy_arguments(tmp_path, f"{how} whole")],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
    )
    assert whole.returncode == 0
    assert same_run(killed.with_name("whole"), killed) == []
