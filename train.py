"""Train a YOLOv5 detector, resume a run, or extend it beyond its planned end.

    python train.py --data my.yaml --weights yolov5s.pt --imgsz 640 --epochs 300
    python train.py --resume runs/train/exp
    python train.py --resume runs/train/exp --extend-epochs 30 --lr-continuation rebase

`build` creates the objects of a run and `train_run` trains it. The training step is in
`utils.training.engine.train_step`, the learning rate in `utils.solver.schedule`, the extension of a
run in `utils.solver.continuation`.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from utils.errors import UserError
from utils.options.parser import build_parser, parse_request
from utils.options.script import exit_code_of, print_error, run_script, set_up_logging
from utils.options.train_options import CLASSES, TrainRequest

if TYPE_CHECKING:
    import torch

    from utils.checkpoint.format import Config
    from utils.runs.run import Run
    from utils.runtime.distributed import Distributed
    from utils.runtime.signals import SignalHandler
    from utils.solver.schedule import Plan
    from utils.training.data import Loaders, TrainingData
    from utils.training.engine import TrainContext
    from utils.training.state import TrainingState
    from utils.training.validation import Evaluator

__all__ = ["build_parser", "train"]


def train(request: TrainRequest) -> Path:
    """Train, resume or extend a run; returns its folder. With torchrun, every process calls this.

    Raises:
        UserError: if the options, a file or the data set are invalid.
        RunInterruptedError: if a signal or an option stopped the run, after it was saved.
    """
    # Imported after the options are parsed, so that --help and option errors are printed at once.
    from models.torchvision_operators import check_nms
    from utils.runs.run import open_run
    from utils.runtime.device import (
        keep_freed_memory,
        out_of_memory_as_user_error,
        select_device,
    )
    from utils.runtime.distributed import (
        distributed_from_environment,
        ending_all_on_error,
        process_group,
    )

    distributed = distributed_from_environment()
    if not distributed.is_main:
        set_up_logging(logging.ERROR)
    with ending_all_on_error(distributed, print_error, exit_code_of):
        device = select_device(request.options.device, distributed)
        keep_freed_memory(device)
        check_nms()
        remedy = "use a smaller --batch-size or --imgsz"
        if request.continuation.resume is not None:
            remedy += " with --allow-change batch-size,imgsz"
        with process_group(distributed, device), out_of_memory_as_user_error(remedy):
            if request.continuation.auto_resume:
                return train_until_complete(request, distributed, device)
            return train_run(open_run(request), distributed, device)


def train_until_complete(
    request: TrainRequest, distributed: Distributed, device: torch.device
) -> Path:
    """Start or resume the run that --auto-resume names, and extend it if that is asked for."""
    from utils.runs.auto_resume import next_request
    from utils.runs.run import open_run

    opened = time.monotonic()
    # All processes do what the first one has read.
    while following := distributed.broadcast(
        next_request(request) if distributed.is_main else None
    ):
        train_run(replace(open_run(following), opened=opened), distributed, device)
    return Path(request.options.project) / request.options.name


class Training(NamedTuple):
    """The objects that a run is trained with."""

    run: Run
    plan: Plan
    state: TrainingState
    context: TrainContext
    data: TrainingData
    loaders: Loaders
    evaluator: Evaluator
    config: Config
    interrupts: SignalHandler


def build(run: Run, distributed: Distributed, device: torch.device) -> Training:
    """Build the objects of a run, in the order of the data flow; writes nothing into its folder."""
    from models.loss import build_loss
    from utils.evaluation.citypersons import pedestrian_target
    from utils.runs.run import plan_of
    from utils.runtime.device import choose_precision
    from utils.runtime.signals import SignalHandler
    from utils.training.build import (
        build_context,
        build_model,
        build_state,
        load_model_source,
        resolved_config,
    )
    from utils.training.data import (
        EVAL_BATCH_FACTOR,
        build_training_data,
        class_names,
        load_data_description,
        training_image_size,
    )
    from utils.training.memory import check_batch_size, try_largest_size, with_batch_size
    from utils.training.validation import Evaluator

    options = run.options
    precision = choose_precision(options.amp, device)
    check_batch_size(options, device)

    description = load_data_description(run)
    run = run.with_names(class_names(run, description))
    source = load_model_source(run)
    with distributed.local_main_first():  # the first process of a machine fills the caches
        data = build_training_data(run, description)
    pedestrians = pedestrian_target(description, data.names, data.val.paths)
    model = build_model(run, source, data, device, distributed)
    image_size = training_image_size(options.imgsz, model.max_stride)
    loss = build_loss(
        model, run.hyp, image_size=image_size, label_smoothing=options.label_smoothing
    )
    count = len(data.train)
    run = with_batch_size(run, model, loss, precision, image_size, count, distributed)
    options = run.options
    loaders = data.loaders(
        run, image_size, model.max_stride, distributed, for_gpu=device.type == "cuda"
    )
    fingerprint = data.fingerprint(options.data)
    run = run.with_data(fingerprint, len(loaders.train))
    plan = plan_of(run, len(loaders.train))
    state = build_state(run, model, plan, precision, distributed)
    interrupts = SignalHandler(distributed, run.deadline)
    context = build_context(options, model, plan, loss, precision, interrupts)
    try_largest_size(state, context, loaders.train.largest_batch)
    evaluator = Evaluator(
        loaders.val,
        data.names,
        loss,
        precision.eval_precision,
        data.val.ignored,
        pedestrians,
        # as many as a process of this run can hold, however many share a batch
        EVAL_BATCH_FACTOR * math.ceil(options.batch_size / distributed.world_size),
    )
    config = resolved_config(run, model, data.names, fingerprint, precision, distributed)
    return Training(run, plan, state, context, data, loaders, evaluator, config, interrupts)


def train_run(run: Run, distributed: Distributed, device: torch.device) -> Path:
    """Train a run from its current position to its end, report it, and return its folder."""
    from utils.runs.start import locked_folder, log_start, open_folder
    from utils.runtime.background import BackgroundWorker
    from utils.training.average import evaluate_average
    from utils.training.best import measure_best_again
    from utils.training.build import write_config
    from utils.training.engine import Observers, fit
    from utils.training.image_digests import ImageRecorder, digests_file
    from utils.training.loader_watch import LoaderWatch
    from utils.training.loggers import build_loggers
    from utils.training.recorder import RunRecorder
    from utils.training.seam_check import verify_resume
    from utils.training.stopping import saved_when_stopped
    from utils.training.summary import log_next_steps, report_run
    from utils.training.validation import FirstBatchPlots, LabelsPlot, Validator

    training = build(run, distributed, device)
    run, plan, state, context, data, loaders, evaluator, config, interrupts = training
    options = run.options
    plots = distributed.is_main and not options.noplots
    folder = distributed.broadcast(open_folder(run) if distributed.is_main else Path())
    validator = Validator(evaluator, plan, options, distributed, interrupts)
    with (
        locked_folder(run, folder) if distributed.is_main else nullcontext(),
        interrupts,
        BackgroundWorker() as background,
    ):
        log_start(run, plan, folder)
        recorder = RunRecorder(folder, plan, config, options, distributed, background)
        loggers = build_loggers(folder, plan, distributed, background, loaders.train.waiting)
        images = ImageRecorder(data, digests_file(folder, config), distributed.is_main)
        labels = LabelsPlot(folder, data.train.boxes, data.names, background, pending=plots)
        observers = Observers(
            validate=validator.evaluate_epoch,
            on_batch=FirstBatchPlots(folder, data.names, enabled=plots),
            on_step=(
                recorder.save_on_step,
                lambda state: interrupts.check_sum(state.votes),
                *(labels, images),
                LoaderWatch(loaders.train, data, options, distributed.local_world_size),
            ),
            # logs after the checkpoint
            on_epoch=(recorder.save_on_epoch, loggers.epoch, interrupts.check),
        )
        with saved_when_stopped(recorder, state):
            measure_best_again(run, state, config, recorder.best, validator)
            verify_resume(run, state, config, validator.evaluate_resumed, images.changes(run))
            recorder.save_on_begin(state, run)
            loggers.begin(state)
            write_config(config, plan, run, folder, distributed)
            fit(
                *(state, context, loaders.train, observers),
                patience=options.patience,
                stop_after=options.stop_after,
            )
            labels(state)  # in case there was no step left to train
            interrupts.check()

            def finish() -> None:
                loggers.end()
                recorder.strip_best()
                report_run(
                    *(state, plan, folder, validator),
                    evaluate_average(state, config, loaders.letterboxed, validator, folder),
                    plots=plots,
                )
                recorder.finalize(state)

            distributed.on_main(finish)
    if distributed.is_main:
        log_next_steps(folder, plan, state.epoch)
    return folder


def show_plan(request: TrainRequest) -> Path:
    """Print and plot the learning rate of each way to extend a run; does not train.

    Returns the folder with lr_plan.png and lr_plan.json.

    Raises:
        UserError: if no run or no extension is given, or the run cannot be extended.
    """
    from utils.files.writable import is_writable
    from utils.runs.plan_preview import planned_changes, report_plan
    from utils.runs.run import open_run
    from utils.runs.start import log_dropped, log_warmup
    from utils.training.data import class_names, load_data_description

    run, how = open_run(request), request.continuation
    point = run.resume_point
    if point is None or point.extension is None:
        raise UserError(
            "--plan needs --resume and --extend-epochs; add --resume PATH --extend-epochs X."
        )
    folder = point.folder
    if folder is None or not is_writable(folder):  # of YOLOv5, or read-only
        folder = Path(request.options.project if "project" in request.given else "")
    if "data" in request.given or how.rename_class or how.allow_change & {"data", CLASSES}:
        run = run.with_names(class_names(run, load_data_description(run)))
    log_dropped(point, run.options)
    log_warmup(point)
    report_plan(point.saved, point.next_seam, point.extension, folder, planned_changes(run))
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
