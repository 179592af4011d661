"""What a run leaves in its folder while it trains: options, results, checkpoints."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from utils.atomic_files import copy_replacing
from utils.checkpoint.format import Config
from utils.checkpoint.store import read_checkpoint, save_checkpoint
from utils.history import COLUMNS, Row, write_results
from utils.options import TrainOptions
from utils.solver.schedule import Plan
from utils.training_state import TrainingState, deploy_checkpoint

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("yolo")


class RunRecord:
    """Writes into one run folder."""

    def __init__(self, folder: Path, plan: Plan, config: Config, options: TrainOptions) -> None:
        self.folder = folder
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

    def begin(self, state: TrainingState) -> None:
        """Write the configuration and the history so far."""
        write_yaml(
            {**self._options.to_dict(), "planned_epochs": self._plan.total_epochs},
            self.folder / "opt.yaml",
        )
        write_yaml(dict(self._config["hyp"]), self.folder / "hyp.yaml")
        write_results(state.history, self.folder / "results.csv")
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.folder), purge_step=state.epoch)

    def epoch(self, state: TrainingState) -> None:
        """Save a completed epoch: checkpoint first, so that results.csv never runs ahead of it."""
        done = state.epoch - 1
        finished = state.stopped_early or state.epoch >= self._plan.total_epochs
        if finished or not self._options.nosave:
            save_checkpoint(
                cast("dict[str, Any]", state.to_checkpoint(self._plan, self._config)),
                self.last,
                keep_previous=True,
            )
            if state.best_epoch == done or not self.best.is_file():
                copy_replacing(self.last, self.best)
            period = self._options.save_period
            if period > 0 and state.epoch % period == 0:
                copy_replacing(self.last, self.weights / f"epoch{done}.pt")
        write_results(state.history, self.folder / "results.csv")
        self._show(state.history[-1])

    def _show(self, row: Row) -> None:
        if self._board is None:
            return
        for name in COLUMNS[1:]:
            self._board.add_scalar(name, row[name], int(row["epoch"]))
        self._board.flush()

    def end(self) -> None:
        """Strip best.pt to what predicting needs; last.pt stays whole, to be extended any time."""
        if self._board is not None:
            self._board.close()
        best = read_checkpoint(self.best)
        if best["kind"] == "training":
            save_checkpoint(cast("dict[str, Any]", deploy_checkpoint(best)), self.best)


def write_yaml(data: dict[str, Any], path: Path) -> None:
    """Write plain data as YAML, in the order of its keys."""
    path.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")
