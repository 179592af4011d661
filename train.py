"""Train a YOLOv5 detector, resume a run, or extend one beyond its planned end.

    python train.py --data data/streets.yaml --cfg yolov5n.yaml --weights '' --imgsz 320 --epochs 30
    python train.py --resume runs/train/exp
    python train.py --resume runs/train/exp --extend-epochs 30 --lr-continuation rebase

The function `train` is the program, in the order in which the data flows. The training step itself
is `utils.engine.train_step`, the learning rate `utils.solver.schedule`, the extension of a run
`utils.solver.continuation`.
"""

from __future__ import annotations

from pathlib import Path

from utils.cli import run_script
from utils.options import Request, build_parser, parse_request

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
    from utils.build import build_model, build_state, resolved_config
    from utils.engine import Rules, fit
    from utils.final_report import draw_run, judge_best, tell_how_to_go_on
    from utils.observers import EpochValidator, FirstBatchPictures
    from utils.plots.images import save_labels_plot
    from utils.run import announce, open_run, plan_of, prepare_folder
    from utils.run_record import RunRecord
    from utils.runtime import choose_precision, select_device
    from utils.training_data import build_training_data, whole_strides

    run = open_run(request)
    options = run.options
    device = select_device(options.device)
    precision = choose_precision(options.amp, device)

    data = build_training_data(run)
    model = build_model(run, data.train, len(data.names), device)
    stride = model.max_stride
    image_size = whole_strides(options.imgsz, stride)
    loaders = data.loaders(run, image_size, stride)
    loss = build_loss(
        model, run.hyp, image_size=image_size, label_smoothing=options.label_smoothing
    )
    plan = plan_of(run, len(loaders.train))
    state = build_state(run, model, plan, precision)
    rules = Rules(plan, loss, precision, device, options.seed, stride, options.multi_scale)

    folder = prepare_folder(run)
    record = RunRecord(folder, plan, resolved_config(run, model, data.names, precision), options)
    announce(run, plan, folder)
    record.begin(state)
    if not options.noplots:
        save_labels_plot(data.train.boxes, data.names, folder / "labels.jpg")
    fit(
        state,
        rules,
        loaders.train,
        validate=EpochValidator(
            loaders.val, data.names, loss, device, plan.total_epochs, only_last=options.noval
        ),
        patience=options.patience,
        on_batch=FirstBatchPictures(folder, data.names, wanted=not options.noplots),
        on_epoch=record.epoch,
    )
    record.end()
    judge_best(record.best, loaders.val, device, folder, plots=not options.noplots)
    if not options.noplots:
        draw_run(state.history, plan, folder)
    tell_how_to_go_on(folder, plan, state.epoch)
    return folder


def main() -> None:
    """Entry point of the command line."""
    train(parse_request())


if __name__ == "__main__":
    run_script(main)
