"""The mean of the weights after the last epochs (`--average`), evaluated and written at the end."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import torch

from models.detector import Detector
from utils.checkpoint.format import AVERAGE, BEST, Best, Config
from utils.checkpoint.store import save_checkpoint
from utils.datasets.eval_loader import EvalLoader
from utils.evaluation.report import log_table
from utils.history import fitness
from utils.runtime.progress import Progress
from utils.solver.seam import EMA_MAP_COLUMN
from utils.training.batch_norm import recompute_statistics
from utils.training.state import TrainingState, stripped
from utils.training.validation import Validator

log = logging.getLogger("yolo")


def evaluate_average(
    state: TrainingState,
    config: Config,
    batches: EvalLoader | None,
    validator: Validator,
    folder: Path,
) -> dict[str, float]:
    """Evaluate the mean of the weights after the last epochs, and write weights/average.pt.

    `batches` are training images without augmentation, for the batch-norm statistics; None without
    `--average`.

    Returns:
        The metrics for metrics.json, with the mAP50-95 of the EMA weights after the last epoch;
        empty without `--average`, or if the run stopped early.

    Raises:
        RunInterruptedError: if a signal arrives; a resumed run repeats all of it.
    """
    if batches is None:
        return {}
    file, last = folder / "weights" / AVERAGE, validator.options.average
    if state.average is None or state.average.updates < last:
        why = "--average %d needs the last %d planned epochs, and the run stopped early"
        old = "; the existing file is of an earlier part of the run" if file.is_file() else ""
        log.info(f"No %s is written: {why}%s.", file, last, last, old)
        return {}
    log.info("\nValidating the mean of the last %d epochs", last)
    device = next(state.model.parameters()).device
    model = Detector(state.model.spec)  # not a copy, whose batch norm may be synchronized
    model.load_state_dict(state.average.model.state_dict())
    model = model.to(device).to(memory_format=torch.channels_last)
    progress = Progress(batches, len(batches), "Batch-norm statistics")
    held = [model.model[layer] for layer in state.model.held]
    recompute_statistics(model, progress, device, validator.interrupts.check_own, held)
    content = stripped(model.state_dict(), config, Best(epoch=state.epoch - 1, fitness=math.nan))
    model.load_state_dict(content["weights"])  # evaluate the fp16 weights that are written
    found = validator.evaluate_model(model).evaluation
    log_table(found, label=f"mean of {last} epochs")
    content["fitness"] = fitness(found.map50, found.map50_95)
    save_checkpoint(content, file)
    metrics = {"epochs": last, "ema_map50_95": state.history[-1][EMA_MAP_COLUMN]}
    names = ("precision", "recall", "map50", "map50_95")
    return metrics | {name: getattr(found, name) for name in names}


def log_average(average: Mapping[str, float], best: float) -> None:
    """Log how average.pt compares with the EMA weights, and with the mAP50-95 of best.pt."""
    ema, found = average["ema_map50_95"], average["map50_95"]
    difference = f"{abs(found - ema):.4f} {'better' if found > ema else 'worse'} than"
    if difference.startswith("0.0000"):
        difference = "as good as"
    log.info(
        "The mean of the last %d epochs (%s) has mAP50-95 %.4f, %s the EMA weights of the last "
        "epoch (%.4f); %s has %.4f.",
        *(average["epochs"], AVERAGE, found, difference, ema, BEST, best),
    )
