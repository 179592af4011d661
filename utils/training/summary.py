"""The report of a finished run: its best weights evaluated by class, its seams, its plots."""

from __future__ import annotations

import logging
from pathlib import Path
from shlex import quote

import torch

from utils.checkpoint.format import BEST
from utils.evaluation.miss_rate import log_miss_rates, percentages
from utils.evaluation.report import BatchPlots, log_table, save_metrics, save_plots
from utils.history import Row
from utils.options.train_options import NOT_INHERITED_NAMES, TrainOptions
from utils.runtime.distributed import Distributed
from utils.solver.schedule import Plan
from utils.solver.seam import SeamMetrics, seam_metrics
from utils.training.validation import Validator
from utils.weights import load_model

log = logging.getLogger("yolo")


def report_run(
    history: list[Row],
    plan: Plan,
    validator: Validator,
    device: torch.device,
    folder: Path,
    *,
    plots: bool,
) -> None:
    """Evaluate the best weights, log what the seams cost, and draw the run."""
    evaluate_best(folder, validator, device, plots=plots)
    log_seams(history, plan)
    if plots:
        plot_run(history, plan, folder)


def evaluate_best(folder: Path, validator: Validator, device: torch.device, *, plots: bool) -> None:
    """Validate best.pt as it was written, and save the metrics."""
    best = folder / "weights" / BEST
    loaded = load_model(best, device)
    log.info("\nValidating %s", best)
    pictures = [BatchPlots(folder, loaded.names)] if plots else []
    evaluation, miss_rates = validator.evaluate_model(loaded.model, pictures)
    log_table(evaluation, per_class=True)
    benchmarks: dict[str, object] = {}
    if miss_rates:
        log_miss_rates(miss_rates)
        benchmarks["miss_rate_percent"] = percentages(miss_rates)
        if plots:
            from utils.evaluation.curves import save_miss_rate_curves  # and matplotlib

            save_miss_rate_curves(miss_rates, folder / "miss_rate.png")
    save_metrics(evaluation, folder / "metrics.json", benchmarks)
    if plots:
        save_plots(evaluation, folder)


def plot_run(history: list[Row], plan: Plan, folder: Path) -> None:
    """Draw results.png and lr_map.png, the learning rate next to mAP with every seam."""
    from utils.plots.run_curves import SeamMark, save_lr_map, save_results_plot

    rates = [plan.lr0 * factor for factor in plan.factors()]
    seams = [SeamMark(s.epoch, s.mode, _note(s)) for s in seam_metrics(plan, history)]
    save_results_plot(history, folder / "results.png")
    save_lr_map(history, rates, seams, folder / "lr_map.png")
    log.info("Learning rate next to mAP: %s", folder / "lr_map.png")


def _cost(result: SeamMetrics) -> str:
    """What a seam cost: how far the average fell, and when it was back."""
    if result.ema_drop is None:
        return "not measured"
    if result.ema_drop == 0:
        return "no drop"
    back = "not back" if result.back_after is None else f"back after {result.back_after}"
    return f"dropped {result.ema_drop:.3g}, {back}"


def _note(result: SeamMetrics) -> str:
    """What a seam cost and what came of it, for the picture."""
    if result.best is None or result.ema_before is None:
        return ""
    gain = result.best - result.ema_before
    return f"{_cost(result)}; best {result.best:.3g}, {gain:+.2g} in {result.epochs} epochs"


def log_seams(history: list[Row], plan: Plan) -> None:
    """Show what every seam cost and what its extension gained."""
    for result in seam_metrics(plan, history):
        log.info(
            "Seam at epoch %d, %s, rate times %s: mAP50-95 of the average %s before, %s at the "
            "lowest after, %s; of the raw weights %s before, %s at the lowest. Best afterwards %s "
            "in %d epochs, gain %s per 100.",
            *(result.epoch, result.mode, _rounded(result.ratio)),
            *map(_rounded, (result.ema_before, result.ema_lowest)),
            _cost(result),
            *map(_rounded, (result.raw_before, result.raw_lowest, result.best)),
            *(result.epochs, _rounded(result.gain_per_100)),
        )


def _rounded(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def log_next_steps(folder: Path, plan: Plan, completed: int) -> None:
    """Say where the results are, and how the run can be taken further."""
    log.info("Results are in %s", folder)
    if completed < plan.total_epochs:
        log.info(
            "The run stopped early; %d epochs of its plan are left.", plan.total_epochs - completed
        )
    log.info("To train on: python train.py --resume %s --extend-epochs X", quote(str(folder)))


def log_resume_command(
    folder: Path, options: TrainOptions, distributed: Distributed, signal: str
) -> None:
    """Say which command goes on with a run that was asked to stop, exactly as if it had not been.

    Args:
        folder: of the run.
        options: of the run; those that hold for one command only are repeated.
        distributed: that trained it.
        signal: name of the signal that stopped it.
    """
    program = "python"
    if distributed.world_size > 1:
        machines = distributed.world_size // distributed.local_world_size
        nodes = f"--nnodes {machines} " if machines > 1 else ""
        program = f"torchrun {nodes}--nproc_per_node {distributed.local_world_size}"
    again = [
        "--" + name.replace("_", "-")
        for name in sorted(NOT_INHERITED_NAMES - {"exist_ok"})
        if getattr(options, name)
    ]
    command = " ".join([program, "train.py --resume", quote(str(folder)), *again])
    log.info("\nStopped by %s after a whole step, and saved. To go on: %s", signal, command)
