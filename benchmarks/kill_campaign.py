"""Kills at random moments of a training run, each followed by a resume, until the run is done."""

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
    ABSENT,
    LAST,
    PREVIOUS,
    Saved,
    Settings,
    compare_runs,
    inspect,
    settings_of,
)
from benchmarks.watched_run import Phase, Sight, WatchedRun, mean_durations
from utils.errors import UserError

log = logging.getLogger("yolo")

AIMS = (
    *(Phase.TRAINING, Phase.SAVING, Phase.VALIDATING, Phase.SAVING, Phase.TRAINING),
    *(Phase.SAVING, Phase.STARTING, Phase.VALIDATING, Phase.TRAINING, Phase.ENDING),
)
"""Phases to kill in, over and over."""
ANY_PART = (0.0, 1.0)
PARTS = {Phase.STARTING: (0.3, 1.0), Phase.SAVING: (0.0, 1.5), Phase.ENDING: (0.0, 0.6)}
"""Between which parts of a phase to kill: not while Python starts, but when best.pt and the tables
are written after last.pt, and not when all is over."""


class Moment(NamedTuple):
    """When to kill."""

    batches: int
    """Trained since the start of the run; the phase is waited for from then on."""
    phase: Phase
    wait: float
    """Part of the phase that passes first."""


NEVER = Moment(sys.maxsize, Phase.ENDING, 0.0)


class Kill(NamedTuple):
    """A kill, and what it left."""

    aimed: Phase
    hit: Phase
    reached: int
    """Batches that had been trained."""
    last: Saved
    previous: Saved

    @property
    def remaining(self) -> Saved:
        """The file to go on from."""
        fall_back = not self.last.whole and self.previous != ABSENT
        return self.previous if fall_back else self.last

    @property
    def lost(self) -> int:
        """Batches to be trained again."""
        return max(self.reached - self.remaining.iteration, 0)


@dataclass
class Outcome:
    """What came of a campaign."""

    settings: Settings
    epochs: int
    batches: int
    """Of an epoch."""
    kills: list[Kill] = field(default_factory=list)
    resumes: int = 0
    restarts: int = 0
    """Kills before anything was saved: the run was begun anew."""
    failure: str = ""
    """What a process that failed said at last; empty if none did."""
    differences: dict[str, list[str]] = field(default_factory=dict)
    """For each part of what a run leaves, where it is not that of the undisturbed run."""

    @property
    def damaged(self) -> list[Kill]:
        """Kills that left a last.pt that is not whole."""
        return [kill for kill in self.kills if kill.last.state == "damaged"]

    @property
    def fatal(self) -> list[Kill]:
        """Those of them that left no good last_prev.pt either."""
        return [kill for kill in self.damaged if not kill.remaining.whole]

    @property
    def equal(self) -> bool:
        """Whether the run came to its end, and is the undisturbed one bit for bit."""
        return bool(self.differences) and not any(self.differences.values())


class Campaign:
    """The same run twice: undisturbed, and killed over and over.

    Args:
        arguments: of train.py, for both.
        folder: an empty one, for the runs and what they print.
        environment: added to that of this process.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        self._arguments = arguments
        self._folder = folder
        self._environment = environment
        self._distributed = 0

    def run(self, kills: int, seed: int) -> Outcome:
        """Train undisturbed, then with kills, and compare.

        Raises:
            UserError: the undisturbed run failed.
        """
        whole, killed = (self._folder / name for name in ("whole", "killed"))
        with self._start(whole, ABSENT) as undisturbed:
            undisturbed.reaches(partial(is_due, NEVER))
        last = whole / "weights" / LAST
        end = inspect(last)
        if undisturbed.exit_code != 0 or not end.closed:
            raise UserError(f"the undisturbed run failed; its last words: {undisturbed.last_words}")
        outcome = Outcome(settings_of(last), end.epoch, end.iteration // end.epoch)
        log.info("Undisturbed: %d epochs of %d batches.", outcome.epochs, outcome.batches)
        moments = draw_moments(
            np.random.default_rng([seed]),
            kills,
            epochs=outcome.epochs,
            batches=outcome.batches,
            save_steps=outcome.settings.save_steps,
        )
        self._disturb(killed, moments, mean_durations(undisturbed.seen), outcome)
        if not outcome.failure:
            outcome.differences = compare_runs(whole, killed)
        return outcome

    def _disturb(
        self,
        run: Path,
        moments: Sequence[Moment],
        durations: Mapping[Phase, float],
        outcome: Outcome,
    ) -> None:
        """Kill the run at each of the moments and go on, then let it come to its end."""
        saved = ABSENT
        for moment in (*moments, NEVER):
            outcome.resumes += saved != ABSENT
            outcome.restarts += saved == ABSENT and bool(outcome.kills)
            with self._start(run, saved) as process:
                killed = process.reaches(partial(is_due, moment))
                if killed:
                    time.sleep(moment.wait * durations[moment.phase])
                    killed = process.kill()
            if not killed and process.exit_code != 0:
                outcome.failure = process.last_words
                return
            files = [inspect(run / "weights" / name) for name in (LAST, PREVIOUS)]
            kill = Kill(moment.phase, *process.look(), *files)
            saved = kill.remaining
            if killed:
                outcome.kills.append(kill)
                _tell(len(outcome.kills), kill)
            if saved.closed:
                return

    def _start(self, run: Path, saved: Saved) -> WatchedRun:
        """Go on with a run; begin anew if it was killed before it saved anything."""
        if saved == ABSENT:
            shutil.rmtree(run, ignore_errors=True)
            arguments = [*self._arguments, "--project", str(self._folder), "--name", run.name]
        else:
            arguments = ["--resume", str(run)]
        self._distributed += 1
        output = self._folder / f"{run.name}{self._distributed}.txt"
        return WatchedRun([*arguments, "--noplots"], run, output, self._environment, saved)


def _tell(number: int, kill: Kill) -> None:
    log.info(
        "Kill %d while %s, after %d batches: last.pt is %s, last_prev.pt %s; batches lost: %d",
        *(number, kill.hit.value, kill.reached, kill.last.state, kill.previous.state, kill.lost),
    )


def draw_moments(
    rng: np.random.Generator, kills: int, *, epochs: int, batches: int, save_steps: int
) -> list[Moment]:
    """Random moments, in the order in which a run comes by them.

    Args:
        rng: for all draws.
        kills: number of moments.
        epochs: of the run.
        batches: of an epoch.
        save_steps: the run saves after so many batches, 0 for never, and after each epoch.
    """
    moments = []
    for phase in islice(cycle(AIMS), kills):
        # The first start is no resume's; by the second epoch there should have been a kill.
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
        moments.append(Moment(after, phase, float(rng.uniform(*PARTS.get(phase, ANY_PART)))))
    order = list(Phase)
    return sorted(moments, key=lambda moment: (moment.batches, order.index(moment.phase)))


def is_due(moment: Moment, sight: Sight) -> bool:
    """Whether the phase of a moment has begun, or is over already."""
    if Phase.STARTING in (moment.phase, sight.phase):
        return moment.phase is Phase.STARTING
    if sight.batches != moment.batches:
        return sight.batches > moment.batches
    return sight.phase is moment.phase
