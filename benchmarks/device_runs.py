"""Training processes of benchmarks/device.py: one is killed and resumed, one of two fails.

torchrun runs this file as a `train.py` that fails in the second process. POSIX only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any

import torch
from torch import Tensor

if __name__ == "__main__":
    # A script starts with its own folder on sys.path; imports need the repository root instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.device_parity import distance, vector
from benchmarks.kill_campaign import NEVER, is_due
from benchmarks.report import Check
from benchmarks.run_files import LAST, MISSING, PART_KEYS, inspect_checkpoint, read_content
from benchmarks.watched_run import ROOT, WatchedRun
from utils.errors import UserError
from utils.options.script import run_script

LENGTH = ("--epochs", "3", "--save-steps", "1")
BATCHES_BEFORE_FAILURE = 5
MARGIN = 4
"""How much farther than two undisturbed runs from each other a resumed run may be from one of them:
differences of rounding grow at random, but stay in one order of magnitude."""
MAX_SECONDS_TO_END = 20.0
"""After an error: torchrun looks for ended processes every tenth of a second, and nothing else has
to be waited for. A process that hangs would be ended by torchrun after 30 s only."""
MAX_SECONDS = 180.0
"""For two processes that fail within seconds, on a slow machine."""
SENTENCE = "the second process fails on purpose"


def check_resume(options: Sequence[str], folder: Path, device: torch.device) -> list[Check]:
    """Compare a run that was killed with SIGKILL and resumed with an undisturbed one.

    On a CPU they are equal. On a GPU two undisturbed runs differ by rounding, because the order of
    sums is not fixed; a third run measures by how much.

    Args:
        options: options of train.py.
        folder: an empty folder, the `--project` of the runs.
        device: where the runs compute.
    """
    gpu = device.type == "cuda"
    how = [*options, *LENGTH, "--device", str(device), "--amp", "fp16" if gpu else "off"]
    names = ("killed", "undisturbed", *(["again"] if gpu else []))
    last = {name: folder / name / "weights" / LAST for name in names}
    with ExitStack() as stack:
        runs = {}
        for name in names:
            output = folder / f"{name}.txt"
            run = WatchedRun([*how, "--name", name], folder / name, output, {}, MISSING)
            runs[name] = stack.enter_context(run)
        if runs["killed"].wait_until(
            lambda seen: seen.batches >= BATCHES_BEFORE_FAILURE and last["killed"].is_file()
        ):
            runs["killed"].kill()
        middle = inspect_checkpoint(last["killed"])
        if not middle.intact or middle.finalized:
            note = f"last.pt is {middle.state} after the kill: {runs['killed'].output_tail}"
            return [Check("no result", float("nan"), 0, note)]
        words = ["--resume", str(folder / "killed"), "--device", str(device), "--noplots"]
        run = WatchedRun(words, folder / "killed", folder / "resumed.txt", {}, middle)
        runs["killed"] = stack.enter_context(run)
        for run in runs.values():
            run.wait_until(partial(is_due, NEVER))
    if failed := [run.output_tail for run in runs.values() if run.exit_code]:
        return [Check("no result", float("nan"), 0, failed[0])]
    return compare_ends([read_content(last[name]) for name in names], middle.iteration)


def compare_ends(contents: Sequence[Mapping[str, Any]], iteration: int) -> list[Check]:
    """Compare the last checkpoints of a resumed run and of one or two undisturbed ones.

    Args:
        contents: content of last.pt: of the resumed run, of an undisturbed one, of a second one.
        iteration: number of batches before the resume.
    """
    note = f"resumed after {iteration} batches"
    found = []
    for part, key in PART_KEYS.items():
        resumed, undisturbed, *again = (vector(tensors(content[key])) for content in contents)
        limit = MARGIN * distance(again[0], undisturbed) if again else 0.0
        name = f"{part}, distance from an undisturbed run"
        found.append(Check(name, distance(resumed, undisturbed), limit, note))
    name = "values of the loss scaler that differ"
    scaler, other = (content["scaler"] for content in contents[:2])
    if not scaler:
        return [*found, Check(name, None, note="fp16 needs a GPU")]
    differ = sum(scaler[key] != value for key, value in other.items())
    return [*found, Check(name, differ, 0, f"scale {scaler['scale']:g}")]


def tensors(tree: object) -> Iterator[Tensor]:
    """Yield the floating-point tensors of nested dicts and lists, in their order."""
    if isinstance(tree, Tensor) and tree.is_floating_point():
        yield tree
    elif isinstance(tree, dict | list):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from tensors(branch)


def check_failure(options: Sequence[str], folder: Path, device: torch.device) -> list[Check]:
    """Train in two processes until the second one fails: both must end, with one sentence.

    Args:
        options: options of train.py.
        folder: an empty folder, the `--project` of the run.
        device: with two GPUs the processes use NCCL, otherwise gloo on the CPU.
    """
    nccl = device.type == "cuda" and torch.cuda.device_count() > 1
    words = [*options, *LENGTH, "--name", "failing", "--device", "" if nccl else "cpu"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__]
    with subprocess.Popen(
        [sys.executable, *torchrun, *words],
        cwd=ROOT,
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        timer = Timer(MAX_SECONDS, process.terminate)  # torchrun then ends its processes
        timer.start()
        # The output ends when every process that could write to it has ended.
        lines = [(time.monotonic(), line) for line in process.stdout or ()]
        ended = time.monotonic()
        timer.cancel()
    said = [when for when, line in lines if SENTENCE in line]
    status = inspect_checkpoint(folder / "failing" / "weights" / LAST)
    seconds = ended - said[0] if said else float("nan")
    output = "" if len(said) == 1 else "".join(line for _, line in lines)
    how = "NCCL" if nccl else "gloo on the CPU; NCCL needs two GPUs"
    return [
        Check("seconds until both have ended", seconds, MAX_SECONDS_TO_END, how),
        Check("superfluous or missing messages", abs(len(said) - 1), 0, output),
        Check("damaged or missing last.pt", float(not status.intact), 0),
    ]


def main() -> None:
    """Train as train.py does, but fail in the second process after some batches."""
    import train
    from utils.training import engine
    from utils.training.state import TrainingState

    step = engine.train_step

    def failing(state: TrainingState, *args: Any, **named: Any) -> None:  # noqa: ANN401 -- passed on
        step(state, *args, **named)
        if state.iteration == BATCHES_BEFORE_FAILURE and os.environ["RANK"] == "1":
            raise UserError(f"{SENTENCE}.")

    engine.train_step = failing
    train.main()


if __name__ == "__main__":
    run_script(main)
