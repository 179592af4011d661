"""The final report of a run: evaluation of the best weights, seams, plots and next steps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

import torch

from utils.checkpoint.format import BEST, ContinuationRecord
from utils.evaluation.miss_rate import log_miss_rates, percentages
from utils.evaluation.report import BatchPlots, log_table, save_metrics, save_plots
from utils.history import Row
from utils.runs.changes import changed_text
from utils.solver.schedule import Plan
from utils.solver.seam import COMMON_CLASSES, SeamMetrics, seam_metrics
from utils.training.average import log_average
from utils.training.state import VALIDATION, TrainingState
from utils.training.validation import Validator
from utils.weights import load_model

log = logging.getLogger("yolo")

SMALLEST_DROP = 1e-4
"""Drops of mAP below this are only reported as smaller than it."""


def report_run(
    state: TrainingState,
    plan: Plan,
    folder: Path,
    validator: Validator,
    average: dict[str, float],
    *,
    plots: bool,
) -> None:
    """Evaluate best.pt, report the seams, and save metrics and plots.

    `average` has the metrics of average.pt, if there is one.
    """
    _evaluate_best(folder, validator, next(state.model.parameters()).device, average, plots=plots)
    log_seams(state.history, plan)
    if plots:
        plot_run(state, plan, folder)


def _evaluate_best(
    folder: Path,
    validator: Validator,
    device: torch.device,
    average: dict[str, float],
    *,
    plots: bool,
) -> None:
    best = folder / "weights" / BEST
    loaded = load_model(best, device)
    log.info("\nValidating %s", best)
    observers = [BatchPlots(folder, loaded.names)] if plots else []
    evaluation, miss_rates = validator.evaluate_model(loaded.model, observers)
    log_table(evaluation, per_class=True)
    benchmarks: dict[str, object] = {}
    if average:
        log_average(average, evaluation.map50_95)
        benchmarks["average"] = average
    if miss_rates:
        log_miss_rates(miss_rates)
        benchmarks["miss_rate_percent"] = percentages(miss_rates)
        if plots:
            from utils.evaluation.curves import save_miss_rate_curves  # imports matplotlib

            save_miss_rate_curves(miss_rates, folder / "miss_rate.png")
    save_metrics(evaluation, folder / "metrics.json", benchmarks)
    if plots:
        save_plots(evaluation, folder)


def plot_run(state: TrainingState, plan: Plan, folder: Path) -> None:
    """Save results.png and lr_map.png, the learning rate next to mAP with all seams."""
    from utils.plots.run_curves import SeamMark, save_lr_map, save_results_plot

    history, changes = state.history, seam_changes(state.continuations)
    incomparable = {
        record["epoch"]
        for record in state.continuations
        if VALIDATION.intersection(record["allowed_changes"])
    }
    rates = [plan.lr0 * factor for factor in plan.factors()]
    seams = [
        SeamMark(
            s.epoch,
            s.mode,
            ", ".join(filter(None, (changes.get(s.epoch), _note(s)))),
            s.epoch in incomparable,
        )
        for s in seam_metrics(plan, history)
    ]
    save_results_plot(history, folder / "results.png")
    closed = [epoch for epoch in range(plan.total_epochs) if not plan.uses_mosaic(epoch)]
    count = state.average.updates if state.average and state.epoch == plan.total_epochs else 0
    averaged = range(plan.total_epochs - count, plan.total_epochs)
    path, best = folder / "lr_map.png", state.best_epoch
    marks = {"without_mosaic": closed, "averaged": averaged}
    save_lr_map(history, rates, seams, path, best=best, **marks)
    log.info("Learning rate next to mAP: %s", path)


def seam_changes(continuations: Sequence[ContinuationRecord]) -> dict[int, str]:
    """What was allowed to change when a run continued, by epoch: "data changed"."""
    found: dict[int, set[str]] = {}
    for record in continuations:
        found.setdefault(record["epoch"], set()).update(record["allowed_changes"])
    return {epoch: changed_text(names) for epoch, names in found.items() if names}


def _describe_drop(result: SeamMetrics) -> str:
    """The drop of the EMA mAP50-95 at a seam, and the epochs until it recovered."""
    if result.ema_drop is None:
        return "not measured"
    if result.ema_drop == 0:
        return "no drop"
    after = result.back_after
    recovery = "not recovered" if after is None else f"recovered after {_epochs(after)}"
    drop = f"{result.ema_drop:.4f}" if result.ema_drop >= SMALLEST_DROP else "less than 0.0001"
    return f"dropped {drop}, {recovery}"


def _note(result: SeamMetrics) -> str:
    """The drop and the gain of a seam, for the plot."""
    if result.best is None or result.ema_before is None:
        return ""
    gain = result.best - result.ema_before
    common = "kept classes " if result.common else ""
    best = f"best {result.best:.3g}, {gain:+.2g} in {_epochs(result.epochs)}"
    return f"{common}{_describe_drop(result)}; {best}"


def log_seams(history: list[Row], plan: Plan) -> None:
    """Log the drop at each seam and the gain of each extension."""
    for result in seam_metrics(plan, history):
        log.info(
            "Seam at epoch %d, %s, learning rate ×%s: mAP50-95%s of the EMA weights %s before, "
            "lowest %s after, %s; of the non-EMA weights %s before, lowest %s after. Best %s in "
            "%s, gain %s per 100 epochs.",
            *(result.epoch, result.mode, _rounded(result.ratio)),
            result.common * COMMON_CLASSES,
            *map(_rounded, (result.ema_before, result.ema_lowest)),
            _describe_drop(result),
            *map(_rounded, (result.raw_before, result.raw_lowest, result.best)),
            *(_epochs(result.epochs), _rounded(result.gain_per_100_epochs)),
        )


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"


def _rounded(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def log_next_steps(folder: Path, plan: Plan, completed: int) -> None:
    """Log the output folder, and the command that extends the run."""
    log.info("Results are in %s", folder)
    if completed < plan.total_epochs:
        log.info(
            "The run stopped early; to train the %d planned epochs that are left: python train.py "
            "--resume %s --patience 0. To end it with K epochs at a falling rate: --resume %s "
            "--finish-epochs K",
            *(plan.total_epochs - completed, *[quote(str(folder))] * 2),
        )
    log.info("To extend: python train.py --resume %s --extend-epochs X", quote(str(folder)))
