"""A training process, watched from the outside: by what it prints and by the files that it writes.

POSIX only: it is killed together with its whole process group.
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

from benchmarks.run_files import Saved

ROOT = Path(__file__).resolve().parents[1]
EVERY_BATCH = {"TQDM_MININTERVAL": "0", "TQDM_MINITERS": "1"}
"""Settings of the progress bar: it is to tell of each batch at once."""
SIGNS = re.compile(
    rb"(?P<epoch>Epoch +Memory)|(?P<ending>Validating )"
    rb"|(?P<other>Class[^\r\n]*?)?\| +(?P<batch>\d+)/(?P<batches>\d+) \["
)
"""In what is printed: a new epoch, the end of training, and progress in training or otherwise."""
PAUSE = 0.001
"""Seconds between two looks."""
TAIL = 2000
"""Bytes of the output that tell why a run failed."""


class Phase(str, Enum):
    """What a run is doing, in the order in which it comes by."""

    STARTING = "starting"
    TRAINING = "training"
    VALIDATING = "validating"
    SAVING = "saving"
    ENDING = "ending"


class Sight(NamedTuple):
    """What can be seen of a run."""

    phase: Phase
    batches: int
    """Trained since the start of the run."""


class WatchedRun:
    """A process of train.py, in a process group of its own; it does not outlive the `with`.

    Args:
        arguments: of train.py.
        folder: of the run.
        output: the file that takes what is printed.
        environment: added to that of this process.
        start: what it goes on from.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        output: Path,
        environment: Mapping[str, str],
        start: Saved,
    ) -> None:
        self._weights = folder / "weights"
        self._left_by_others = self._parts()
        self._next_epoch = start.epoch
        self._phase, self._batches = Phase.STARTING, start.iteration
        self._bar = -1  # what the progress bar showed last
        self._printed, self._heeded = b"", 0
        self.seen = [(time.monotonic(), Sight(self._phase, self._batches))]
        """Every change, and when it was seen, in seconds of some clock."""
        with output.open("wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "train.py", *arguments],
                cwd=ROOT,
                env={**os.environ, **environment, **EVERY_BATCH},
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
    def last_words(self) -> str:
        """The end of what was printed."""
        return self._printed[-TAIL:].decode(errors="replace")

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative if a signal ended it."""
        return self._process.poll()

    def look(self) -> Sight:
        """What the run is doing now, or was doing when it ended; a save is known by its file."""
        with self._output.open("rb") as stream:
            stream.seek(len(self._printed))
            self._printed += stream.read()
        for sign in SIGNS.finditer(self._printed, self._heeded):
            self._heeded = sign.end()
            self._heed(sign)
        saving = self._parts() - self._left_by_others
        sight = Sight(Phase.SAVING if saving else self._phase, self._batches)
        if sight != self.seen[-1][1]:
            self.seen.append((time.monotonic(), sight))
        return sight

    def _heed(self, sign: re.Match[bytes]) -> None:
        if sign["epoch"]:
            self._phase = Phase.TRAINING
            self._next_epoch += 1
            self._bar = -1
        elif sign["ending"]:
            self._phase = Phase.ENDING
        elif sign["other"] is None and self._phase in (Phase.TRAINING, Phase.VALIDATING):
            batch, batches = int(sign["batch"]), int(sign["batches"])
            # Drawn again as it was, the bar tells the losses of a batch that it counts later.
            trained = min(batch + (batch == self._bar), batches)
            self._batches = (self._next_epoch - 1) * batches + trained
            self._bar = batch
            self._phase = Phase.VALIDATING if batch == batches else Phase.TRAINING

    def _parts(self) -> set[str]:
        """Files that are being written, to be renamed when they are whole."""
        return {path.name for path in self._weights.glob(".*.pt")}

    def reaches(self, due: Callable[[Sight], bool]) -> bool:
        """Wait until it is due, or until the process has ended: then False."""
        while self.exit_code is None:
            if due(self.look()):
                return True
            time.sleep(PAUSE)
        self.look()
        return False

    def kill(self) -> bool:
        """Kill it and its workers; False if it had ended already."""
        os.killpg(self._process.pid, signal.SIGKILL)  # there until it was waited for
        killed = self._process.wait() == -signal.SIGKILL
        self.look()
        return killed


def mean_durations(seen: Sequence[tuple[float, Sight]]) -> dict[Phase, float]:
    """Seconds that each phase takes at a time; of training, a batch."""
    times: dict[Phase, list[float]] = {phase: [] for phase in Phase}
    for (begin, sight), (end, _) in itertools.pairwise(seen):
        times[sight.phase].append(end - begin)
    return {phase: float(np.mean(found)) if found else 0.0 for phase, found in times.items()}
