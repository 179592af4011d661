"""Train a YOLOv5 detector, resume a run, or extend one beyond its planned end.

    python train.py --data my.yaml --weights yolov5s.pt --imgsz 640 --epochs 300
    python train.py --resume runs/train/exp
    python train.py --resume runs/train/exp --extend-epochs 30 --lr-continuation rebase

The functions `build` and `train_run` are the program: what takes part, in the order in which the
data flow, and what happens to it. The training step itself is `utils.training.engine.train_step`,
the learning rate `utils.solver.schedule`, the extension of a run `utils.solver.continuation`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from utils.errors import RunInterruptedError, UserError
from utils.options.parser import build_parser, parse_request
from utils.options.script import run_script, set_up_logging
from utils.options.train_options import TrainRequest

if TYPE_CHECKING:
    import torch

    from utils.checkpoint.format import Config
    from utils.runs.run import Run
    from utils.runtime.distributed import Distributed
    from utils.solver.schedule import Plan
    from utils.training.data import Loaders, TrainingData
    from utils.training.engine import TrainContext
    from utils.training.state import TrainingState
    from utils.training.validation import Evaluator

__all__ = ["build_parser", "train"]


def train(request: TrainRequest) -> Path:
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
    from utils.runs.run import open_run
    from utils.runtime.device import keep_freed_memory, select_device
    from utils.runtime.distributed import distributed_from_environment, process_group

    run = open_run(request)
    distributed = distributed_from_environment()
    device = select_device(run.options.device, distributed)
    keep_freed_memory(device)
    if not distributed.is_main:
        set_up_logging(logging.ERROR)
    with process_group(distributed, device):
        return train_run(run, distributed, device)


class Training(NamedTuple):
    """All that takes part in a run."""

    run: Run
    plan: Plan
    state: TrainingState
    context: TrainContext
    data: TrainingData
    loaders: Loaders
    evaluator: Evaluator
    config: Config


def build(run: Run, distributed: Distributed, device: torch.device) -> Training:
    """Build everything, in the order in which the data flows; nothing is written yet."""
    from models.loss import build_loss
    from utils.evaluation.citypersons import pedestrian_target
    from utils.runs.run import plan_of
    from utils.runtime.device import choose_precision
    from utils.training.build import (
        build_context,
        build_model,
        build_state,
        resolved_config,
        starting_point,
    )
    from utils.training.data import build_training_data, describe_data, training_size
    from utils.training.validation import Evaluator

    options = run.options
    precision = choose_precision(options.amp, device)

    description = describe_data(run)
    start = starting_point(run)
    with distributed.main_first():  # it fills the caches
        data = build_training_data(run, description)
    pedestrians = pedestrian_target(description, data.names, data.val.paths)
    model = build_model(run, start, data, device, distributed)
    image_size = training_size(options.imgsz, model.max_stride)
    with distributed.main_first():
        loaders = data.loaders(run, image_size, model.max_stride, distributed)
    loss = build_loss(
        model, run.hyp, image_size=image_size, label_smoothing=options.label_smoothing
    )
    run = run.with_batches_per_epoch(len(loaders.train))
    plan = plan_of(run, len(loaders.train))
    state = build_state(run, model, plan, precision, distributed)
    context = build_context(options, model, plan, loss, precision, distributed)
    evaluator = Evaluator(
        loaders.val, data.names, loss, precision.eval_precision, data.val.ignored, pedestrians
    )
    config = resolved_config(run, model, data, precision, distributed)
    return Training(run, plan, state, context, data, loaders, evaluator, config)


def train_run(run: Run, distributed: Distributed, device: torch.device) -> Path:
    """Train a run from where it stands to its end, and report.

    Args:
        run: what to train.
        distributed: that train it together; every one of them calls this.
        device: of this process.

    Returns:
        The run's folder.
    """
    from utils.runs.run import announce, prepare_folder
    from utils.runtime.background import BackgroundWorker
    from utils.runtime.signals import SignalHandler
    from utils.training.audit import verify_resume
    from utils.training.build import write_config
    from utils.training.engine import Observers, fit
    from utils.training.loggers import build_loggers
    from utils.training.recorder import RunRecorder
    from utils.training.summary import log_next_steps, log_resume_command, report_run
    from utils.training.validation import FirstBatchPlots, LabelsPlot, Validator

    run, plan, state, context, data, loaders, evaluator, config = build(run, distributed, device)
    options = run.options
    plots = distributed.is_main and not options.noplots
    folder = distributed.broadcast(prepare_folder(run) if distributed.is_main else Path())
    interrupts = SignalHandler(distributed)
    validator = Validator(evaluator, plan, options, distributed, interrupts)
    announce(run, plan, folder)
    with interrupts, BackgroundWorker() as background:
        recorder = RunRecorder(folder, plan, config, options, distributed, background)
        loggers = build_loggers(folder, plan, distributed, background)
        labels = LabelsPlot(folder, data.train.boxes, data.names, background, wanted=plots)
        observers = Observers(
            validate=validator.after_epoch,
            on_batch=FirstBatchPlots(folder, data.names, wanted=plots),
            on_step=(recorder.save_on_step, interrupts.check, labels),
            on_epoch=(recorder.save_on_epoch, loggers.epoch),  # files follow their checkpoint
        )
        try:
            audit = verify_resume(run, state, config, validator.before_first_step)
            recorder.save_on_begin(state, run)
            loggers.begin(state, audit)
            write_config(config, plan, folder, distributed)
            fit(state, context, loaders.train, observers, patience=options.patience)
            labels(state)  # no step may have been left to make
            interrupts.check()
            if distributed.is_main:
                loggers.end()
                recorder.strip_best()
                report_run(state.history, plan, validator, context.device, folder, plots=plots)
                recorder.finalize(state)
        except RunInterruptedError as stop:
            recorder.save(state)
            background.wait()
            log_resume_command(folder, options, distributed, stop.signal)
            raise
    if distributed.is_main:
        log_next_steps(folder, plan, state.epoch)
    return folder


def show_plan(request: TrainRequest) -> Path:
    """Print and draw what each way to extend a run would do; train nothing, change nothing else.

    Returns:
        The folder with lr_plan.png and lr_plan.json.

    Raises:
        UserError: there is no run to extend, or it is refused.
    """
    from utils.runs.plan_preview import report_plan
    from utils.runs.run import log_warmup, open_run, plan_folder

    run = open_run(request)
    extension = request.continuation.extension()
    if run.resume_point is None or extension is None:
        raise UserError("--plan shows extensions: add --resume PATH and --extend-epochs X.")
    folder = plan_folder(run.resume_point)
    log_warmup(run.resume_point)
    report_plan(run.resume_point.saved, run.resume_point.next_seam, extension, folder)
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
