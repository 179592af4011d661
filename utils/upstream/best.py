"""The best weights of an upstream run, taken along when the run goes on from a later epoch."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from models.spec import ModelSpec
from utils.checkpoint.format import FORMAT, VERSION, DeployCheckpoint, TrainingCheckpoint
from utils.errors import UserError
from utils.history import METRIC_COLUMNS, fitness
from utils.upstream.history import best_on_record
from utils.upstream.progress import read_results_file
from utils.upstream.reader import UpstreamCheckpoint, read_upstream
from utils.upstream.state import fp32_state

log = logging.getLogger("yolo")

ROUNDED = 1e-3  # relative; results.txt has four digits, results.csv has five


def convert_best(path: Path, checkpoint: TrainingCheckpoint) -> DeployCheckpoint | None:
    """A best.pt of upstream as one of ours, if it holds the best epoch of an imported run.

    A stripped file has neither its epoch nor, from v6.1 on, its fitness: the epoch is that of the
    best row of all results, and must be one that the imported run has trained.

    Args:
        path: the file.
        checkpoint: the imported run.

    Returns:
        None if the file cannot be read, or holds another epoch, another model or other classes.
    """
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
    """The epoch whose weights a best.pt holds; -1 if that is not to be found out."""
    if content.epoch >= 0:
        return content.epoch
    best = best_on_record(read_results_file(path, content).rows)
    return -1 if best is None else best.epoch


def _is_best(epoch: int, content: UpstreamCheckpoint, checkpoint: TrainingCheckpoint) -> bool:
    """Whether a file of that epoch has the best fitness of a run, by itself or by the record."""
    if not 0 <= epoch < checkpoint["position"]["epoch"]:
        return False
    row = checkpoint["history"][epoch]
    found = content.best_fitness or fitness(row[METRIC_COLUMNS[2]], row[METRIC_COLUMNS[3]])
    return math.isclose(found, checkpoint["best"]["fitness"], rel_tol=ROUNDED)
