"""Kills a training run at random moments and resumes it each time, until the run finishes."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.run_files import (
    LAST,
    MISSING,
    PREVIOUS,
    CheckpointStatus,
    Settings,
    compare_runs,
    inspect_checkpoint,
    read_settings,
)
from benchmarks.watched_run import FAILED, Observation, Phase, WatchedRun, mean_durations
from utils.errors import UserError

log = logging.getLogger("yolo")

TARGET_PHASES = (
    *(Phase.TRAINING, Phase.SAVING, Phase.VALIDATING, Phase.SAVING, Phase.TRAINING),
    *(Phase.SAVING, Phase.STARTING, Phase.VALIDATING, Phase.TRAINING, Phase.ENDING),
)
"""Phases to kill in, repeated in this order."""
ANY_FRACTION = (0.0, 1.0)
KILL_WINDOWS = {Phase.STARTING: (0.3, 1.0), Phase.SAVING: (0.0, 1.5), Phase.ENDING: (0.0, 0.6)}
"""Fractions of a phase's duration between which to kill: not while Python itself starts, not when
the run is over, and also while best.pt and the tables are written after last.pt."""


class Moment(NamedTuple):
    """The time of a kill."""

    batches: int
    """Batches to train since the start of the run before waiting for the phase."""
    phase: Phase
    wait: float
    """Fraction of the phase to wait before the kill."""


NEVER = Moment(sys.maxsize, Phase.ENDING, 0.0)


class Kill(NamedTuple):
    """A kill, and the checkpoints after it."""

    target: Phase
    phase: Phase
    batches: int
    """Number of batches trained before the kill."""
    last: CheckpointStatus
    previous: CheckpointStatus

    @property
    def resume_from(self) -> CheckpointStatus:
        """The checkpoint to resume from."""
        use_previous = not self.last.intact and self.previous != MISSING
        return self.previous if use_previous else self.last

    @property
    def lost(self) -> int:
        """Number of batches to train again."""
        return max(self.batches - self.resume_from.iteration, 0)


@dataclass
class CampaignResult:
    """The result of a campaign."""

    settings: Settings
    epochs: int
    batches: int
    """Number of batches per epoch."""
    kills: list[Kill] = field(default_factory=list)
    resumes: int = 0
    fresh_starts: int = 0
    """Kills before the first save; the run started from scratch."""
    failure: str = ""
    """The end of the output of a process that failed; empty if none failed."""
    differences: dict[str, list[str]] = field(default_factory=dict)
    """Differences from the uninterrupted run, for each part of the run's files."""

    @property
    def damaged(self) -> list[Kill]:
        """Kills that left a damaged last.pt."""
        return [kill for kill in self.kills if kill.last.state == "damaged"]

    @property
    def fatal(self) -> list[Kill]:
        """Damaging kills that left no intact last_prev.pt either."""
        return [kill for kill in self.damaged if not kill.resume_from.intact]

    @property
    def equal(self) -> bool:
        """Whether the run finished and equals the uninterrupted run bit for bit."""
        return bool(self.differences) and not any(self.differences.values())


class Campaign:
    """Trains the same run twice: uninterrupted, and killed repeatedly.

    Args:
        arguments: command-line arguments of train.py, for both runs.
        folder: an empty folder for the runs and their output.
        environment: variables to add to the environment of this process.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        self._arguments = arguments
        self._folder = folder
        self._environment = environment
        self._process_count = 0

    def run(self, kills: int, seed: int) -> CampaignResult:
        """Train without kills, train with kills, and compare the two runs.

        Args:
            kills: number of kills.
            seed: seed of their random moments.

        Raises:
            UserError: the uninterrupted run failed.
        """
        reference, killed = (self._folder / name for name in ("reference", "killed"))
        with self._start(reference, MISSING) as process:
            process.wait_until(partial(is_due, NEVER))
        last = reference / "weights" / LAST
        end = inspect_checkpoint(last)
        if process.exit_code != 0 or not end.finalized:
            raise UserError(f"the uninterrupted run {FAILED}\n{process.output_tail}")
        result = CampaignResult(read_settings(last), end.epoch, end.iteration // end.epoch)
        log.info("Uninterrupted run: %d epochs of %d batches.", result.epochs, result.batches)
        moments = sample_moments(
            np.random.default_rng([seed]),
            kills,
            epochs=result.epochs,
            batches=result.batches,
            save_steps=result.settings.save_steps,
        )
        self._train_with_kills(killed, moments, mean_durations(process.observations), result)
        if not result.failure:
            result.differences = compare_runs(reference, killed)
        return result

    def _train_with_kills(
        self,
        run: Path,
        moments: Sequence[Moment],
        durations: Mapping[Phase, float],
        result: CampaignResult,
    ) -> None:
        """Kill the run at each moment and resume it, then let it finish."""
        start = MISSING
        for moment in (*moments, NEVER):
            result.resumes += start != MISSING
            result.fresh_starts += start == MISSING and bool(result.kills)
            with self._start(run, start) as process:
                killed = process.wait_until(partial(is_due, moment))
                if killed:
                    time.sleep(moment.wait * durations[moment.phase])
                    killed = process.kill()
            if not killed and process.exit_code != 0:
                result.failure = process.output_tail
                return
            files = [inspect_checkpoint(run / "weights" / name) for name in (LAST, PREVIOUS)]
            kill = Kill(moment.phase, *process.observe(), *files)
            start = kill.resume_from
            if killed:
                result.kills.append(kill)
                _log_kill(len(result.kills), kill)
            if start.finalized:
                return

    def _start(self, run: Path, start: CheckpointStatus) -> WatchedRun:
        """Resume a run; start from scratch if it was killed before its first save."""
        if start == MISSING:
            shutil.rmtree(run, ignore_errors=True)
            arguments = [*self._arguments, "--project", str(self._folder), "--name", run.name]
        else:
            arguments = ["--resume", str(run)]
        self._process_count += 1
        output = self._folder / f"{run.name}{self._process_count}.txt"
        arguments += ["--device", "cpu", "--noplots"]
        return WatchedRun(arguments, run, output, self._environment, start)


def _log_kill(number: int, kill: Kill) -> None:
    log.info(
        "Kill %d while %s, after %d batches: last.pt is %s, last_prev.pt is %s; batches lost: %d",
        *(number, kill.phase.value, kill.batches, kill.last.state, kill.previous.state, kill.lost),
    )


def sample_moments(
    rng: np.random.Generator, kills: int, *, epochs: int, batches: int, save_steps: int
) -> list[Moment]:
    """Sample random moments, in the order in which a run reaches them.

    Args:
        rng: random generator.
        kills: number of moments.
        epochs: number of epochs of the run.
        batches: number of batches per epoch.
        save_steps: number of batches between saves, 0 for saves after epochs only.
    """
    moments = []
    for phase in islice(cycle(TARGET_PHASES), kills):
        # The start to kill is that of a resume: by the second epoch there should have been a kill.
        earliest = min(1, epochs - 1) if phase is Phase.STARTING else 0
        begin = batches * int(rng.integers(earliest, epochs))
        end = begin + batches
        inside = [done for done in range(begin + 1, end) if save_steps and done % save_steps == 0]
        at = {
            Phase.SAVING: int(rng.choice([rng.choice([*inside, end]), end])),
            Phase.VALIDATING: end,
            Phase.ENDING: epochs * batches,
        }
        after = at.get(phase, int(rng.integers(begin, end)))
        moments.append(
            Moment(after, phase, float(rng.uniform(*KILL_WINDOWS.get(phase, ANY_FRACTION))))
        )
    order = list(Phase)
    return sorted(moments, key=lambda moment: (moment.batches, order.index(moment.phase)))


def is_due(moment: Moment, observation: Observation) -> bool:
    """Return whether the phase of a moment has started or is already over."""
    if Phase.STARTING in (moment.phase, observation.phase):
        return moment.phase is Phase.STARTING
    if observation.batches != moment.batches:
        return observation.batches > moment.batches
    return observation.phase is moment.phase
