"""Writes the checkpoints of a run: last.pt, best.pt and one per save period."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from utils.checkpoint.format import AVERAGE, Config, TrainingCheckpoint
from utils.checkpoint.store import read_checkpoint, save_checkpoint
from utils.files.atomic_write import atomic_copy, exporting, remove_temporary_files
from utils.options.train_options import TrainOptions
from utils.runs.run import Run
from utils.runtime.background import BackgroundWorker
from utils.runtime.distributed import Distributed
from utils.solver.schedule import Plan
from utils.training.state import TrainingState, deploy_checkpoint, require_finite
from utils.upstream.writer import upstream_path, write_upstream
from utils.weights import load_model

log = logging.getLogger("yolo")


@dataclass
class RunRecorder:
    """Writes the checkpoints of one run, in the main process.

    A checkpoint is copied at once and written in the background while the training continues.
    """

    folder: Path
    plan: Plan
    config: Config
    options: TrainOptions
    distributed: Distributed
    background: BackgroundWorker
    best_is_old: bool = False
    """Whether a better epoch than that of best.pt was trained, but not saved (`--nosave`)."""

    @property
    def weights(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "weights"

    @property
    def last(self) -> Path:
        """The checkpoint to resume from; never stripped."""
        return self.weights / "last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch; stripped to its weights at the end of the run."""
        return self.weights / "best.pt"

    def save_on_begin(self, state: TrainingState, run: Run) -> None:
        """Write last.pt if it does not exist or options change; delete files of killed processes.

        A run that is killed in its first epoch, or in the first one after a seam, can be resumed.
        """
        if self.distributed.is_main:
            for place in (self.folder, self.weights):
                remove_temporary_files(place)
        branched = run.resume_point is None or run.folder is None
        extended = run.resume_point is not None and run.resume_point.extended
        if extended or run.allowed or (branched and not self.options.nosave):
            self.save(state)

    def save_on_epoch(self, state: TrainingState) -> None:
        """Write last.pt and its copies after an epoch."""
        self.background.wait()  # a pending job may write best.pt
        finished = state.stopped_early or state.epoch >= self.plan.total_epochs
        segment = self.plan.segments[-1]
        done = state.epoch - 1
        self.best_is_old |= state.best_epoch == done or not self.best.is_file()
        if self.options.nosave and not finished:
            return
        copies = []
        if self.best_is_old:
            copies.append(self.best)
            self.best_is_old = False
        period = self.options.save_period
        if period > 0 and state.epoch % period == 0:
            copies.append(self.weights / f"epoch{done}.pt")
        trunk = segment.cooldown and state.epoch == segment.stop - segment.cooldown
        self._save(state, copies, self.weights / f"trunk_{state.epoch}.pt" if trunk else None)

    def save_on_step(self, state: TrainingState) -> None:
        """Write last.pt every --save-steps batches, within an epoch too."""
        period = self.options.save_steps
        if period > 0 and state.iteration % period == 0:
            self.save(state)

    def save(self, state: TrainingState) -> None:
        """Write last.pt; all processes must call this together."""
        self._save(state, copies=())

    def _save(
        self, state: TrainingState, copies: Sequence[Path], trunk: Path | None = None
    ) -> None:
        checkpoint = state.to_checkpoint(self.plan, self.config, self.distributed)
        if self.distributed.is_main:
            kept = copy.deepcopy(checkpoint)  # later steps change the tensors of the state
            self.background.submit(lambda: self._write(kept, copies, trunk))

    def _write(
        self, checkpoint: TrainingCheckpoint, copies: Sequence[Path], trunk: Path | None
    ) -> None:
        require_finite(checkpoint)
        if trunk is not None:  # first: a run that is killed now repeats the epoch
            save_checkpoint(checkpoint, trunk)
        self._write_last(checkpoint)
        for target in copies:
            atomic_copy(self.last, target)

    def _write_last(self, checkpoint: TrainingCheckpoint) -> None:
        save_checkpoint(checkpoint, self.last, keep_previous=True)

    def strip_best(self) -> None:
        """Strip best.pt for inference; last.pt stays complete, so that the run can be extended.

        It gets the class names of the run, which may have been renamed since the best epoch.
        """
        self.background.wait()
        found, names = read_checkpoint(self.best), self.config["names"]
        if found["kind"] == "training":
            found = deploy_checkpoint(found)
        elif found["names"] == names:
            return
        found["names"] = names
        save_checkpoint(found, self.best)

    def _export_yolov5(self) -> None:
        options, hyp = self.config["options"], self.config["hyp"]
        for path in (self.best, self.weights / AVERAGE):
            if path.is_file():
                loaded, target = load_model(path, torch.device("cpu")), upstream_path(path)
                training = loaded.training._replace(options=options, hyp=hyp)
                with exporting(self.weights):
                    write_upstream(target, loaded.model, loaded.names, training)
                log.info("The weights for YOLOv5 are in %s", target)

    def finalize(self, state: TrainingState) -> None:
        """Mark the run as complete in last.pt, after its final steps are done.

        With `--export-yolov5`, also write best.pt and average.pt as files for YOLOv5.
        """
        if self.options.export_yolov5:
            self._export_yolov5()
        state.finalize()
        self.save(state)
