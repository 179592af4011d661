"""What a finished run tells and shows: its best weights judged class by class, and its pictures."""

from __future__ import annotations

import logging
from pathlib import Path
from shlex import quote

import torch

from utils.checkpoint.loading import load_model
from utils.evaluation.miss_rate import draw, log_miss_rates, percentages
from utils.evaluation.report import BatchPictures, log_table, save_metrics, save_plots
from utils.history import Row
from utils.observers import Validator
from utils.options import OF_THE_COMMAND, TrainOptions
from utils.processes import Processes
from utils.solver.schedule import Plan
from utils.solver.seam import SeamFigures, seam_figures

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
    """Judge the best weights, tell what the seams cost, and draw the run."""
    judge_best(folder, validator, device, plots=plots)
    log_seams(history, plan)
    if plots:
        draw_run(history, plan, folder)


def judge_best(folder: Path, validator: Validator, device: torch.device, *, plots: bool) -> None:
    """Validate the weights that are handed out, as they were written, and leave the figures."""
    best = folder / "weights" / "best.pt"
    loaded = load_model(best, device)
    log.info("\nValidating %s", best)
    pictures = [BatchPictures(folder, loaded.names)] if plots else []
    evaluation, miss_rates = validator.judged(loaded.model, pictures)
    log_table(evaluation, per_class=True)
    benchmarks: dict[str, object] = {}
    if miss_rates:
        log_miss_rates(miss_rates)
        benchmarks["miss_rate_percent"] = percentages(miss_rates)
        if plots:
            draw(miss_rates, folder / "miss_rate.png")
    save_metrics(evaluation, folder / "metrics.json", benchmarks)
    if plots:
        save_plots(evaluation, folder)


def draw_run(history: list[Row], plan: Plan, folder: Path) -> None:
    """Draw results.png and lr_map.png, the learning rate next to mAP with every seam."""
    from utils.plots.run_curves import SeamMark, save_lr_map, save_results_plot

    rates = [plan.lr0 * factor for factor in plan.factors()]
    seams = [SeamMark(f.epoch, f.mode, _note(f)) for f in seam_figures(plan, history)]
    save_results_plot(history, folder / "results.png")
    save_lr_map(history, rates, seams, folder / "lr_map.png")
    log.info("Learning rate next to mAP: %s", folder / "lr_map.png")


def _cost(figures: SeamFigures) -> str:
    """What a seam cost: how far the average fell, and when it was back."""
    if figures.ema_drop is None:
        return "not measured"
    if figures.ema_drop == 0:
        return "no drop"
    back = "not back" if figures.back_after is None else f"back after {figures.back_after}"
    return f"dropped {figures.ema_drop:.3g}, {back}"


def _note(figures: SeamFigures) -> str:
    """What a seam cost and what came of it, for the picture."""
    if figures.best is None or figures.ema_before is None:
        return ""
    gain = figures.best - figures.ema_before
    return f"{_cost(figures)}; best {figures.best:.3g}, {gain:+.2g} in {figures.epochs} epochs"


def log_seams(history: list[Row], plan: Plan) -> None:
    """Show what every seam cost and what its extension gained."""
    for figures in seam_figures(plan, history):
        log.info(
            "Seam at epoch %d, %s, rate times %s: mAP50-95 of the average %s before, %s at the "
            "lowest after, %s; of the raw weights %s before, %s at the lowest. Best afterwards %s "
            "in %d epochs, gain %s per 100.",
            *(figures.epoch, figures.mode, _figure(figures.ratio)),
            *map(_figure, (figures.ema_before, figures.ema_lowest)),
            _cost(figures),
            *map(_figure, (figures.raw_before, figures.raw_lowest, figures.best)),
            *(figures.epochs, _figure(figures.gain_per_100)),
        )


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def tell_how_to_go_on(folder: Path, plan: Plan, completed: int) -> None:
    """Say where the results are, and how the run can be taken further."""
    log.info("Results are in %s", folder)
    if completed < plan.total_epochs:
        log.info(
            "The run stopped early; %d epochs of its plan are left.", plan.total_epochs - completed
        )
    log.info("To train on: python train.py --resume %s --extend-epochs X", quote(str(folder)))


def tell_how_to_resume(
    folder: Path, options: TrainOptions, processes: Processes, signal: str
) -> None:
    """Say which command goes on with a run that was asked to stop, exactly as if it had not been.

    Args:
        folder: of the run.
        options: of the run; those that hold for one command only are told again.
        processes: that trained it.
        signal: name of the signal that stopped it.
    """
    program = "python"
    if processes.count > 1:
        machines = processes.count // processes.local_count
        nodes = f"--nnodes {machines} " if machines > 1 else ""
        program = f"torchrun {nodes}--nproc_per_node {processes.local_count}"
    again = [
        "--" + name.replace("_", "-")
        for name in sorted(OF_THE_COMMAND - {"exist_ok"})
        if getattr(options, name)
    ]
    command = " ".join([program, "train.py --resume", quote(str(folder)), *again])
    log.info("\nStopped by %s after a whole step, and saved. To go on: %s", signal, command)
