"""A training process, observed from outside through its output and its files.

POSIX only: killing it kills its whole process group.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.run_files import CheckpointStatus

ROOT = Path(__file__).resolve().parents[1]
UPDATE_EVERY_BATCH = {"TQDM_MININTERVAL": "0", "TQDM_MINITERS": "1"}
"""Environment variables that make the progress bar update at every batch."""
OUTPUT_PATTERN = re.compile(
    rb"(?P<epoch>Epoch +Memory)|(?P<ending>Validating )"
    rb"|(?P<other>Class[^\r\n]*?)?\| +(?P<batch>\d+)/(?P<batches>\d+) \["
)
"""Matches in the output: a new epoch, the end of training, progress in training or elsewhere."""
POLL_SECONDS = 0.001
"""Time between two observations, seconds."""
TAIL_BYTES = 2000
"""Number of bytes at the end of the output that an error message quotes."""
FAILED = "failed; fix the error at the end of its output:"
"""Follows the name of a process in an error message; the output comes after it."""


class Phase(str, Enum):
    """What a run is doing, in the order of a run."""

    STARTING = "starting"
    TRAINING = "training"
    VALIDATING = "validating"
    SAVING = "saving"
    ENDING = "ending"


class Observation(NamedTuple):
    """The progress of a run."""

    phase: Phase
    batches: int
    """Number of batches trained since the start of the run."""


class WatchedRun:
    """A train.py process in its own process group; leaving the `with` block kills it.

    Args:
        arguments: command-line arguments of train.py.
        folder: folder of the run.
        output: file that receives the output.
        environment: variables to add to the environment of this process.
        start: checkpoint that the run resumes from.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        output: Path,
        environment: Mapping[str, str],
        start: CheckpointStatus,
    ) -> None:
        self._weights = folder / "weights"
        self._stale_files = self._unfinished_files()
        self._next_epoch = start.epoch
        self._phase, self._batches = Phase.STARTING, start.iteration
        self._bar_count = -1  # the last batch number in the progress bar
        self._printed, self._parsed = b"", 0
        self.observations = [(time.monotonic(), Observation(self._phase, self._batches))]
        """Every change, with its time in seconds of the monotonic clock."""
        with output.open("wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "train.py", *arguments],
                cwd=ROOT,
                env={**os.environ, **environment, **UPDATE_EVERY_BATCH},
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._output = output

    def __enter__(self) -> WatchedRun:
        return self

    def __exit__(self, *_: object) -> None:
        if self.exit_code is None:
            self.kill()

    @property
    def output_tail(self) -> str:
        """The end of the output."""
        return self._printed[-TAIL_BYTES:].decode(errors="replace")

    @property
    def exit_code(self) -> int | None:
        """The exit code: None while the process runs, negative if a signal ended it."""
        return self._process.poll()

    def observe(self) -> Observation:
        """Return the progress now, or at the end of the process.

        An unfinished checkpoint file means that the run is saving.
        """
        with self._output.open("rb") as stream:
            stream.seek(len(self._printed))
            self._printed += stream.read()
        for match in OUTPUT_PATTERN.finditer(self._printed, self._parsed):
            self._parsed = match.end()
            self._update(match)
        saving = self._unfinished_files() - self._stale_files
        observation = Observation(Phase.SAVING if saving else self._phase, self._batches)
        if observation != self.observations[-1][1]:
            self.observations.append((time.monotonic(), observation))
        return observation

    def _update(self, match: re.Match[bytes]) -> None:
        if match["epoch"]:
            self._phase = Phase.TRAINING
            self._next_epoch += 1
            self._bar_count = -1
        elif match["ending"]:
            self._phase = Phase.ENDING
        elif match["other"] is None and self._phase in (Phase.TRAINING, Phase.VALIDATING):
            batch, batches = int(match["batch"]), int(match["batches"])
            # When the bar repeats a count, it shows the losses of a batch that it counts later.
            trained = min(batch + (batch == self._bar_count), batches)
            self._batches = (self._next_epoch - 1) * batches + trained
            self._bar_count = batch
            self._phase = Phase.VALIDATING if batch == batches else Phase.TRAINING

    def _unfinished_files(self) -> set[str]:
        """Return the names of checkpoints being written; they are renamed when complete."""
        return {path.name for path in self._weights.glob(".*.pt")}

    def wait_until(self, due: Callable[[Observation], bool]) -> bool:
        """Wait until `due` is true; return False if the process ends first."""
        while self.exit_code is None:
            if due(self.observe()):
                return True
            time.sleep(POLL_SECONDS)
        self.observe()
        return False

    def kill(self) -> bool:
        """Kill the process and its workers; return False if it had already ended."""
        os.killpg(self._process.pid, signal.SIGKILL)  # the group exists until wait() returns
        killed = self._process.wait() == -signal.SIGKILL
        self.observe()
        return killed


def mean_durations(observations: Sequence[tuple[float, Observation]]) -> dict[Phase, float]:
    """Return the mean duration of each phase in seconds; for training, of one batch."""
    times: dict[Phase, list[float]] = {phase: [] for phase in Phase}
    for (begin, observation), (end, _) in itertools.pairwise(observations):
        times[observation.phase].append(end - begin)
    return {phase: float(np.mean(t)) if t else 0.0 for phase, t in times.items()}
