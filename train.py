"""Train a YOLOv5 detector, resume a run, or extend one beyond its planned end.

    python train.py --data my.yaml --weights yolov5s.pt --imgsz 640 --epochs 300
    python train.py --resume runs/train/exp
    python train.py --resume runs/train/exp --extend-epochs 30 --lr-continuation rebase

The functions `build` and `train_run` are the program: what takes part, in the order in which the
data flow, and what happens to it. The training step itself is `utils.engine.train_step`, the
learning rate `utils.solver.schedule`, the extension of a run `utils.solver.continuation`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from utils.cli import run_script, set_up_logging
from utils.command_line import build_parser, parse_request
from utils.errors import UserError
from utils.options import Request

if TYPE_CHECKING:
    import torch

    from utils.checkpoint.format import Config
    from utils.engine import Rules
    from utils.evaluation.judge import Judge
    from utils.processes import Processes
    from utils.run import Run
    from utils.solver.schedule import Plan
    from utils.training_data import Loaders, TrainingData
    from utils.training_state import TrainingState

__all__ = ["build_parser", "train"]


def train(request: Request) -> Path:
    """Do what a command line asks for, in one process or in each of those that torchrun started.

    Args:
        request: the parsed command line.

    Returns:
        The run's folder.

    Raises:
        UserError: the request, a file or the data set is refused.
        RunInterruptedError: a signal asked the run to stop, which it did after saving.
    """
    # Imported after the options are parsed, so that --help and a mistake are answered at once.
    from utils.allocator import keep_freed_memory
    from utils.processes import joined, started_processes
    from utils.run import open_run
    from utils.runtime import select_device

    run = open_run(request)
    processes = started_processes()
    device = select_device(run.options.device, processes)
    keep_freed_memory(device)
    if not processes.first:
        set_up_logging(logging.ERROR)
    with joined(processes, device):
        return train_run(run, processes, device)


class Training(NamedTuple):
    """All that takes part in a run."""

    run: Run
    plan: Plan
    state: TrainingState
    rules: Rules
    data: TrainingData
    loaders: Loaders
    judge: Judge
    config: Config


def build(run: Run, processes: Processes, device: torch.device) -> Training:
    """Build everything, in the order in which the data flows; nothing is written yet."""
    from models.loss import build_loss
    from utils.build import build_model, build_rules, build_state, resolved_config, starting_point
    from utils.evaluation.judge import Judge
    from utils.evaluation.pedestrians import pedestrian_target
    from utils.run import plan_of
    from utils.runtime import choose_precision
    from utils.training_data import build_training_data, describe_data, training_size

    options = run.options
    precision = choose_precision(options.amp, device)

    description = describe_data(run)
    start = starting_point(run)
    with processes.first_goes_first():  # it fills the caches
        data = build_training_data(run, description)
    pedestrians = pedestrian_target(description, data.names, data.val.paths)
    model = build_model(run, start, data, device, processes)
    image_size = training_size(options.imgsz, model.max_stride)
    with processes.first_goes_first():
        loaders = data.loaders(run, image_size, model.max_stride, processes)
    loss = build_loss(
        model, run.hyp, image_size=image_size, label_smoothing=options.label_smoothing
    )
    run = run.settled(len(loaders.train))
    plan = plan_of(run, len(loaders.train))
    state = build_state(run, model, plan, precision, processes)
    rules = build_rules(options, model, plan, loss, precision, processes)
    judge = Judge(
        loaders.val, data.names, loss, precision.for_judging, data.val.ignored, pedestrians
    )
    config = resolved_config(run, model, data, precision, processes)
    return Training(run, plan, state, rules, data, loaders, judge, config)


def train_run(run: Run, processes: Processes, device: torch.device) -> Path:
    """Train a run from where it stands to its end, and report.

    Args:
        run: what to train.
        processes: that train it together; every one of them calls this.
        device: of this process.

    Returns:
        The run's folder.
    """
    from utils.background import Background
    from utils.engine import Observers, fit
    from utils.errors import RunInterruptedError
    from utils.final_report import report_run, tell_how_to_go_on, tell_how_to_resume
    from utils.interrupts import Interrupts
    from utils.observers import FirstBatchPictures, LabelsPicture, Validator
    from utils.run import announce, prepare_folder
    from utils.run_record import RunRecord
    from utils.state_audit import prove_state

    run, plan, state, rules, data, loaders, judge, config = build(run, processes, device)
    options = run.options
    plots = processes.first and not options.noplots

    folder = processes.from_first(prepare_folder(run) if processes.first else Path())
    interrupts = Interrupts(processes)
    validator = Validator(judge, plan, options, processes, interrupts)
    announce(run, plan, folder)
    with interrupts, Background() as background:
        record = RunRecord(folder, plan, config, options, processes, background)
        labels = LabelsPicture(folder, data.train.boxes, data.names, background, wanted=plots)
        observers = Observers(
            validate=validator.after_epoch,
            on_batch=FirstBatchPictures(folder, data.names, wanted=plots),
            on_step=(record.step, interrupts.check, labels),
            on_epoch=record.epoch,
        )
        try:
            audit = prove_state(run, state, config, validator.before_first_step)
            record.continuation(state, run, audit)
            record.begin(state, run)
            fit(state, rules, loaders.train, observers, patience=options.patience)
            labels(state)  # no step may have been left to make
            interrupts.check()
            if processes.first:
                record.end()
                report_run(state.history, plan, validator, rules.device, folder, plots=plots)
                record.close(state)
        except RunInterruptedError as stop:
            record.save(state)
            background.wait()
            tell_how_to_resume(folder, options, processes, stop.signal)
            raise
    if processes.first:
        tell_how_to_go_on(folder, plan, state.epoch)
    return folder


def show_plan(request: Request) -> Path:
    """Tell and draw what each way to extend a run would do; train nothing, change nothing else.

    Returns:
        The folder with lr_plan.png and lr_plan.json.

    Raises:
        UserError: there is no run to extend, or it is refused.
    """
    from utils.plan_report import report_plan
    from utils.run import open_run, plan_folder, tell_of_warmup

    run = open_run(request)
    extension = request.continuation.extension()
    if run.origin is None or extension is None:
        raise UserError("--plan shows extensions: add --resume PATH and --extend-epochs X.")
    folder = plan_folder(run.origin)
    if run.origin.adopted is None:
        tell_of_warmup(run.origin)
    report_plan(run.origin.saved, run.origin.next_seam, extension, folder)
    return folder


def main() -> None:
    """Entry point of the command line."""
    request = parse_request()
    if request.continuation.plan:
        show_plan(request)
    else:
        train(request)


if __name__ == "__main__":
    run_script(main)
