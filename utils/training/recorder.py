"""Writes the checkpoints of a run: last.pt, best.pt and one per save period."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

from utils.checkpoint.format import Config, TrainingCheckpoint
from utils.checkpoint.store import read_checkpoint, save_checkpoint
from utils.files.atomic_write import atomic_copy, remove_temporary_files
from utils.options.train_options import TrainOptions
from utils.runs.run import Run
from utils.runtime.background import BackgroundWorker
from utils.runtime.distributed import Distributed
from utils.solver.schedule import Plan
from utils.training.state import TrainingState, deploy_checkpoint, require_finite


class RunRecorder:
    """Writes the checkpoints of one run, in the main process.

    A checkpoint is copied at once and written in the background while the training continues.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        config: Config,
        options: TrainOptions,
        distributed: Distributed,
        background: BackgroundWorker,
    ) -> None:
        self.folder = folder
        self._distributed = distributed
        self._background = background
        self.weights = folder / "weights"
        self._options = options
        self._plan = plan
        self._config = config

    @property
    def last(self) -> Path:
        """The checkpoint to resume from; never stripped."""
        return self.weights / "last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch; stripped to its weights at the end of the run."""
        return self.weights / "best.pt"

    def save_on_begin(self, state: TrainingState, run: Run) -> None:
        """Write last.pt unless it exists; delete partial files of killed processes.

        A run that is killed in its first epoch, or in the first one after a seam, can be resumed.
        """
        if self._distributed.is_main:
            for place in (self.folder, self.weights):
                remove_temporary_files(place)
        branched = run.resume_point is None or run.folder is None
        if (run.resume_point and run.resume_point.extended) or (
            branched and not self._options.nosave
        ):
            self.save(state)

    def save_on_epoch(self, state: TrainingState) -> None:
        """Write last.pt and its copies after an epoch."""
        self._background.wait()  # a pending job may write best.pt
        finished = state.stopped_early or state.epoch >= self._plan.total_epochs
        if self._options.nosave and not finished:
            return
        done = state.epoch - 1
        checkpoint = self._copy_of(state)
        copies = []
        if state.best_epoch == done or not self.best.is_file():
            copies.append(self.best)
        period = self._options.save_period
        if period > 0 and state.epoch % period == 0:
            copies.append(self.weights / f"epoch{done}.pt")
        self._in_background(lambda: self._write(checkpoint, copies))

    def save_on_step(self, state: TrainingState) -> None:
        """Write last.pt every --save-steps batches, within an epoch too."""
        period = self._options.save_steps
        if period > 0 and state.iteration % period == 0:
            self.save(state)

    def save(self, state: TrainingState) -> None:
        """Write last.pt; all processes must call this together."""
        checkpoint = self._copy_of(state)
        self._in_background(lambda: self._write_last(checkpoint))

    def _copy_of(self, state: TrainingState) -> TrainingCheckpoint:
        """A copy of the state, which later steps do not change; all processes must call this."""
        checkpoint = state.to_checkpoint(self._plan, self._config, self._distributed)
        return copy.deepcopy(checkpoint) if self._distributed.is_main else checkpoint

    def _in_background(self, job: Callable[[], None]) -> None:
        if self._distributed.is_main:
            self._background.submit(job)

    def _write(self, checkpoint: TrainingCheckpoint, copies: Sequence[Path]) -> None:
        self._write_last(checkpoint)
        for target in copies:
            atomic_copy(self.last, target)

    def _write_last(self, checkpoint: TrainingCheckpoint) -> None:
        require_finite(checkpoint)
        save_checkpoint(checkpoint, self.last, keep_previous=True)

    def strip_best(self) -> None:
        """Strip best.pt for inference; last.pt stays complete, so that the run can be extended."""
        self._background.wait()
        best = read_checkpoint(self.best)
        if best["kind"] == "training":
            save_checkpoint(deploy_checkpoint(best), self.best)

    def finalize(self, state: TrainingState) -> None:
        """Mark the run as complete in last.pt, after its final steps are done."""
        state.finalize()
        self.save(state)
