"""What a run leaves in its folder while it trains: options, results, checkpoints."""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from utils.checkpoint.format import Config, TrainingCheckpoint
from utils.checkpoint.store import read_checkpoint, save_checkpoint
from utils.files.atomic_write import clear_parts, copy_replacing, write_replacing
from utils.history import COLUMNS, Row, write_results
from utils.options.train_options import TrainOptions
from utils.runs.run import SEAMS, Run
from utils.runtime.background import Background
from utils.runtime.distributed import Distributed
from utils.solver.schedule import Plan
from utils.solver.seam import seam_metrics
from utils.training.audit import Audit
from utils.training.state import TrainingState, deploy_checkpoint, require_finite

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("yolo")


class RunRecorder:
    """Writes into one run folder; of several processes the first does.

    Checkpoints are copied at once, and written while the training goes on.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        config: Config,
        options: TrainOptions,
        distributed: Distributed,
        background: Background,
    ) -> None:
        self.folder = folder
        self._distributed = distributed
        self._background = background
        self.weights = folder / "weights"
        self._options = options
        self._plan = plan
        self._config = config
        self._board: SummaryWriter | None = None

    @property
    def last(self) -> Path:
        """The checkpoint to go on from; never stripped."""
        return self.weights / "last.pt"

    @property
    def best(self) -> Path:
        """The best epoch's weights; stripped for use when the run ends."""
        return self.weights / "best.pt"

    def begin(self, state: TrainingState, run: Run) -> None:
        """Write the configuration and the history so far; and last.pt, unless it is there already.

        So a run that is killed in its first epoch, or in the first after a seam, can be resumed.
        """
        if self._distributed.is_main:
            for place in (self.folder, self.weights):
                clear_parts(place)
        branched = run.resume_point is None or run.folder is None
        if (run.resume_point and run.resume_point.extended) or (
            branched and not self._options.nosave
        ):
            self.save(state)
        if not self._distributed.is_main:
            return
        write_yaml(
            {**self._options.to_dict(), "planned_epochs": self._plan.total_epochs},
            self.folder / "opt.yaml",
        )
        write_yaml(dict(self._config["hyp"]), self.folder / "hyp.yaml")
        self._write_tables(state.history, state.continuations)
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.folder), purge_step=state.epoch)

    def continuation(self, state: TrainingState, run: Run, audit: Audit | None) -> None:
        """Keep how the run went on: the state audit, the seam check and what was allowed."""
        if run.resume_point is None or audit is None:
            return
        state.record_continuation(
            {
                "epoch": run.resume_point.next_seam
                if run.resume_point.extended
                else run.resume_point.completed,
                "kind": "extended" if run.resume_point.extended else "resumed",
                "allowed_changes": sorted(run.allowed),
                "audit": [item._asdict() for item in audit.items],
                "check": audit.check._asdict() | {"reproduced": audit.check.reproduced},
            },
            replaces=run.resume_point.replaces,
        )

    def epoch(self, state: TrainingState) -> None:
        """Save a completed epoch: checkpoint first, so that results.csv never runs ahead of it."""
        self._background.wait()  # it may be about to make best.pt
        done = state.epoch - 1
        finished = state.stopped_early or state.epoch >= self._plan.total_epochs
        if finished or not self._options.nosave:
            checkpoint = self._copy_of(state)
            copies = []
            if state.best_epoch == done or not self.best.is_file():
                copies.append(self.best)
            period = self._options.save_period
            if period > 0 and state.epoch % period == 0:
                copies.append(self.weights / f"epoch{done}.pt")
            self._in_background(lambda: self._write(checkpoint, copies))
        else:
            history, continuations = list(state.history), list(state.continuations)
            self._in_background(lambda: self._write_tables(history, continuations))
        self._show(state.history[-1])

    def step(self, state: TrainingState) -> None:
        """Save inside an epoch, every so many batches; the end of the epoch saves by itself."""
        period = self._options.save_steps
        if period > 0 and state.iteration % period == 0:
            self.save(state)

    def save(self, state: TrainingState) -> None:
        """Write last.pt; all processes call it together."""
        checkpoint = self._copy_of(state)
        self._in_background(lambda: self._write_last(checkpoint))

    def _copy_of(self, state: TrainingState) -> TrainingCheckpoint:
        """The state as it is now, whatever the next steps do to it; all processes take part."""
        checkpoint = state.to_checkpoint(self._plan, self._config, self._distributed)
        return copy.deepcopy(checkpoint) if self._distributed.is_main else checkpoint

    def _in_background(self, job: Callable[[], None]) -> None:
        if self._distributed.is_main:
            self._background.do(job)

    def _write(self, checkpoint: TrainingCheckpoint, copies: Sequence[Path]) -> None:
        """Write last.pt, its copies, and what is told of it."""
        self._write_last(checkpoint)
        for target in copies:
            copy_replacing(self.last, target)
        self._write_tables(checkpoint["history"], checkpoint["continuations"])

    def _write_last(self, checkpoint: TrainingCheckpoint) -> None:
        require_finite(checkpoint)
        save_checkpoint(cast("dict[str, Any]", checkpoint), self.last, keep_previous=True)

    def _write_tables(self, history: list[Row], continuations: list[dict[str, Any]]) -> None:
        write_results(history, self.folder / "results.csv")
        self._write_seams(history, continuations)

    def _write_seams(self, history: list[Row], continuations: list[dict[str, Any]]) -> None:
        seams = [result.to_dict() for result in seam_metrics(self._plan, history)]
        if not seams and not continuations:
            return
        content = {"seams": seams, "continuations": continuations}
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"

        def write(part: Path) -> None:
            part.write_text(text, encoding="utf-8")

        write_replacing(self.folder / SEAMS, write)

    def _show(self, row: Row) -> None:
        if self._board is None:
            return
        for name in COLUMNS[1:]:
            self._board.add_scalar(name, row[name], int(row["epoch"]))
        self._board.flush()

    def close(self, state: TrainingState) -> None:
        """Note in last.pt that nothing of the run's end is missing."""
        state.finalize()
        self.save(state)

    def end(self) -> None:
        """Strip best.pt to what predicting needs; last.pt stays whole, to be extended any time."""
        if self._board is not None:
            self._board.close()
        self._background.wait()
        best = read_checkpoint(self.best)
        if best["kind"] == "training":
            save_checkpoint(cast("dict[str, Any]", deploy_checkpoint(best)), self.best)


def write_yaml(data: dict[str, Any], path: Path) -> None:
    """Write plain data as YAML, in the order of its keys, at once or not at all."""
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)

    def write(part: Path) -> None:
        part.write_text(text, encoding="utf-8")

    write_replacing(path, write)
