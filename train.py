"""Train a YOLOv5 detector, resume a run, or extend one beyond its planned end.

    python train.py --data my.yaml --weights yolov5s.pt --imgsz 640 --epochs 300
    python train.py --resume runs/train/exp
    python train.py --resume runs/train/exp --extend-epochs 30 --lr-continuation rebase

The function `train` is the program, in the order in which the data flows. The training step itself
is `utils.engine.train_step`, the learning rate `utils.solver.schedule`, the extension of a run
`utils.solver.continuation`.
"""

from __future__ import annotations

from pathlib import Path

from utils.cli import run_script
from utils.command_line import build_parser, parse_request
from utils.errors import UserError
from utils.options import Request

__all__ = ["build_parser", "train"]


def train(request: Request) -> Path:
    """Do what a command line asks for.

    Args:
        request: the parsed command line.

    Returns:
        The run's folder.

    Raises:
        UserError: the request, a file or the data set is refused.
    """
    # Imported after the options are parsed, so that --help and a mistake are answered at once.
    from models.loss import build_loss
    from utils.build import build_model, build_state, resolved_config, starting_point
    from utils.engine import Rules, fit
    from utils.final_report import draw_run, judge_best, log_seams, tell_how_to_go_on
    from utils.observers import FirstBatchPictures, Validator
    from utils.plots.images import save_labels_plot
    from utils.run import announce, open_run, plan_of, prepare_folder
    from utils.run_record import RunRecord
    from utils.runtime import choose_precision, select_device
    from utils.state_audit import prove_state
    from utils.training_data import build_training_data, describe_data, training_size

    run = open_run(request)
    options = run.options
    device = select_device(options.device)
    precision = choose_precision(options.amp, device)

    description = describe_data(run)
    start = starting_point(run)
    data = build_training_data(run, description)
    model = build_model(run, start, data.train, len(data.names), device)
    stride = model.max_stride
    image_size = training_size(options.imgsz, stride)
    loaders = data.loaders(run, image_size, stride)
    loss = build_loss(
        model, run.hyp, image_size=image_size, label_smoothing=options.label_smoothing
    )
    run = run.settled(len(loaders.train))
    plan = plan_of(run, len(loaders.train))
    state = build_state(run, model, plan, precision)
    rules = Rules(plan, loss, precision, device, options.seed, stride, options.multi_scale)

    folder = prepare_folder(run)
    config = resolved_config(run, model, data, precision)
    record = RunRecord(folder, plan, config, options)
    validator = Validator(
        loaders.val, data.names, loss, device, plan, run.seam_epochs, only_last=options.noval
    )
    announce(run, plan, folder)
    audit = prove_state(run, state, config, validator.before_first_step)
    record.continuation(state, run, audit)
    record.begin(state, run)
    if not options.noplots:
        save_labels_plot(data.train.boxes, data.names, folder / "labels.jpg")
    fit(
        state,
        rules,
        loaders.train,
        validate=validator.after_epoch,
        patience=options.patience,
        on_batch=FirstBatchPictures(folder, data.names, wanted=not options.noplots),
        on_epoch=record.epoch,
    )
    record.end()
    judge_best(record.best, loaders.val, device, folder, plots=not options.noplots)
    log_seams(state.history, plan)
    if not options.noplots:
        draw_run(state.history, plan, folder)
    record.close(state)
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
    from utils.run import open_run, plan_folder

    run = open_run(request)
    extension = request.continuation.extension()
    if run.origin is None or extension is None:
        raise UserError("--plan shows extensions: add --resume PATH and --extend-epochs X.")
    folder = plan_folder(run.origin)
    report_plan(run.origin.saved, run.origin.completed, extension, folder)
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
