"""Imports the best weights of an upstream run that is resumed from a later epoch."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from models.spec import ModelSpec
from utils.checkpoint.format import BEST, FORMAT, VERSION, DeployCheckpoint, TrainingCheckpoint
from utils.errors import UserError
from utils.history import METRIC_COLUMNS, fitness
from utils.upstream.history import best_recorded_epoch, read_results_file
from utils.upstream.reader import UpstreamCheckpoint, read_upstream
from utils.upstream.state import fp32_state

log = logging.getLogger("yolo")

FITNESS_TOLERANCE = 1e-3  # relative; results.txt has four digits, results.csv has five


def import_best(folder: Path, checkpoint: TrainingCheckpoint) -> DeployCheckpoint | None:
    """Convert upstream's best.pt if it holds the best epoch of an imported run.

    A stripped file has no epoch and, since v6.1, no fitness. Its epoch is then that of the best row
    of all results, and must be one of the epochs that the imported run has completed.

    Args:
        folder: the folder of the best.pt.
        checkpoint: the imported run.

    Returns:
        A deploy checkpoint; None if there is no best.pt, or it cannot be read, or holds another
        epoch, another model or other classes.
    """
    path = folder / BEST
    if not path.is_file():
        return None
    config = checkpoint["config"]
    try:
        content = read_upstream(path)
        epoch = _epoch_of(path, content)
        weights = fp32_state(content.weights, ModelSpec.from_dict(config["spec"]), path)
    except UserError as error:
        log.warning("%s", error)
        return None
    if list(content.names) != config["names"] or not _is_best(epoch, content, checkpoint):
        return None
    return DeployCheckpoint(
        format=FORMAT,
        version=VERSION,
        kind="deploy",
        weights={name: t.half() if t.is_floating_point() else t for name, t in weights.items()},
        spec=config["spec"],
        names=config["names"],
        epoch=epoch,
        fitness=checkpoint["best"]["fitness"],
    )


def _epoch_of(path: Path, content: UpstreamCheckpoint) -> int:
    """Return the epoch of the weights in a best.pt; -1 if it is unknown."""
    if content.epoch >= 0:
        return content.epoch
    best = best_recorded_epoch(read_results_file(path, content).rows)
    return -1 if best is None else best.epoch


def _is_best(epoch: int, content: UpstreamCheckpoint, checkpoint: TrainingCheckpoint) -> bool:
    """Return whether the fitness of that epoch, from the file or the history, is the run's best."""
    if not 0 <= epoch < checkpoint["position"]["epoch"]:
        return False
    row = checkpoint["history"][epoch]
    found = content.best_fitness or fitness(row[METRIC_COLUMNS[2]], row[METRIC_COLUMNS[3]])
    return math.isclose(found, checkpoint["best"]["fitness"], rel_tol=FITNESS_TOLERANCE)
