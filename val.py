"""Validate a detector on a labelled data set.

Usage:
    python val.py --weights yolov5s.pt --data coco128.yaml --imgsz 640
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import UserError
from utils.options.arguments import add_options, parse_options
from utils.options.script import OptionParser, run_script
from utils.options.val_options import SPEED_CONF_THRES, SPEED_IOU_THRES, ValOptions

# Heavy modules are imported where they are used, so that --help is printed at once.
if TYPE_CHECKING:
    from utils.datasets.description import DatasetDescription
    from utils.datasets.eval_loader import EvalLoader
    from utils.datasets.ignore_regions import IgnoreRegions
    from utils.datasets.index import Index
    from utils.evaluation.citypersons import MissRateEvaluator
    from utils.evaluation.evaluate import EvalSettings, Evaluation, Observer
    from utils.inference.backend import Backend

log = logging.getLogger("yolo")

MAX_CLASSES_LISTED, MAX_MOVED_LISTED = 50, 3


def build_parser() -> argparse.ArgumentParser:
    """The parser of `val.py`."""
    parser = OptionParser(prog="val.py", description="Validate a detector on a labelled data set.")
    add_options(parser, ValOptions)
    return parser


def main() -> None:
    """Parse the command line and validate."""
    options = parse_options(build_parser(), ValOptions)
    from utils.runtime.device import out_of_memory_as_user_error

    with out_of_memory_as_user_error("use a smaller --batch-size or --imgsz"):
        validate(options)


def validate(options: ValOptions) -> Path:
    """Evaluate the weights on the data set, save the metrics and return the run folder.

    Raises:
        UserError: if an option or a file is invalid, or the weights do not match the data set.
    """
    from models.torchvision_operators import check_nms
    from utils.datasets.description import COCO_KEY, check_obtainable, load_description, truth_file
    from utils.evaluation import report
    from utils.evaluation.coco_eval import CocoBenchmark
    from utils.evaluation.evaluate import evaluate, evaluated_names
    from utils.inference.backend import as_detector, open_backend
    from utils.runs.folder import create_run_folder
    from utils.runtime.device import keep_freed_memory, select_device

    device = select_device(options.device)
    keep_freed_memory(device)
    check_nms()
    if options.half and device.type == "cpu":
        raise UserError("--half needs a GPU; omit it on a CPU.")
    description = load_description(options.data)
    check_obtainable(description, (options.split,))
    backend = open_backend(options.weights, device, half=options.half, augment=options.augment)
    if not options.single_cls:
        require_same_classes(description, backend)
    index = build_split_index(options, description)
    loader = build_loader(options, index, backend, for_gpu=device.type == "cuda")
    names = evaluated_names(description.names, single_class=options.single_cls)
    ignore = index.ignored
    pedestrians = miss_rate_evaluator(description, names, index) if options.miss_rate else None
    published = truth_file(description, COCO_KEY)
    coco = CocoBenchmark(index, names, ignore, published) if options.save_json else None
    folder = create_run_folder(options.project, options.name, options.exist_ok)
    save_plots = not options.noplots and not options.speed
    observers: list[Observer] = [one for one in (coco, pedestrians) if one is not None]
    if save_plots:
        observers.append(report.BatchPlots(folder, names))
    if options.save_txt:
        labels, with_confidence = folder / "labels", options.save_conf
        observers.append(report.TextFiles(labels, index.paths, with_confidence=with_confidence))
    evaluation = evaluate(
        as_detector(backend),
        loader,
        names=description.names,
        device=device,
        settings=eval_settings(options, ignore),
        observers=observers,
    )
    log_results(evaluation, verbose=options.verbose)
    benchmarks: dict[str, object] = {}
    if coco:
        results = folder / f"{Path(options.weights[0]).stem}_predictions.json"
        benchmarks |= coco.report(evaluation, results)
    if pedestrians:
        benchmarks |= pedestrians.report(folder / "miss_rate.png" if save_plots else None)
    report.save_metrics(evaluation, folder / "metrics.json", benchmarks)
    if save_plots:
        report.save_plots(evaluation, folder)
    log.info("Results saved to %s", folder)
    return folder


def require_same_classes(description: DatasetDescription, backend: Backend) -> None:
    """Check that the data set and the weights have the same number of classes.

    Warns if the names have another order.

    Raises:
        UserError: if they differ.
    """
    if len(backend.names) != len(description.names):
        raise UserError(
            f"{description.path} has {len(description.names)} classes, but {backend.origin} "
            f"detects {len(backend.names)}; use matching data and weights, or add --single-cls."
        )
    moved = [
        f"{name} is {own} in the data and {backend.names.index(name)} in the weights"
        for own, name in enumerate(description.names)
        if name != backend.names[own] and name in backend.names
    ]
    if moved:
        listed = "; ".join(moved[:MAX_MOVED_LISTED]) + " …" * (len(moved) > MAX_MOVED_LISTED)
        log.warning(
            "%s has the classes of %s in another order (%s); classes are compared by number, so "
            "the metrics are wrong: use the data-set file of the training.",
            *(description.path, backend.origin, listed),
        )


def eval_settings(options: ValOptions, ignore: IgnoreRegions | None = None) -> EvalSettings:
    """The settings of the evaluation; --task speed has its own default thresholds."""
    from utils.evaluation.evaluate import EvalSettings

    conf_thres, iou_thres = options.conf_thres, options.iou_thres
    if options.speed and conf_thres == ValOptions.conf_thres:
        conf_thres = SPEED_CONF_THRES
    if options.speed and iou_thres == ValOptions.iou_thres:
        iou_thres = SPEED_IOU_THRES
    return EvalSettings(
        conf_thres=conf_thres,
        iou_thres=iou_thres,
        max_det=options.max_det,
        single_class=options.single_cls,
        precision="fp16" if options.half else "fp32",
        ignore=ignore,
    )


def miss_rate_evaluator(
    description: DatasetDescription, names: Sequence[str], index: Index
) -> MissRateEvaluator:
    """The observer that computes the miss rate.

    Raises:
        UserError: if the data set has no ground truth in CityPersons format, or it is invalid.
    """
    from utils.datasets.description import MISS_RATE_KEY
    from utils.evaluation.citypersons import MissRateEvaluator, pedestrian_target

    target = pedestrian_target(description, names, index.paths)
    if target is None:
        raise UserError(
            f"--miss-rate needs ground truth in CityPersons format; set `{MISS_RATE_KEY}:` in "
            f"{description.path}, or run `python -m utils.tools.convert citypersons`."
        )
    return MissRateEvaluator(target)


def build_split_index(options: ValOptions, description: DatasetDescription) -> Index:
    """The images and labels of the split to validate."""
    from utils.datasets.description import ensure_available
    from utils.datasets.index import build_index

    ensure_available(description, (options.split,))
    return build_index(
        description.split(options.split),
        description.names,
        single_class=options.single_cls,
        workers=options.workers,
        needs_boxes=False,
    )


def build_loader(
    options: ValOptions, index: Index, backend: Backend, *, for_gpu: bool = False
) -> EvalLoader:
    """The loader: rectangular batches, or square ones to measure the speed or for a fixed size.

    Raises:
        UserError: if the model accepts rectangles of one size only.
    """
    from utils.datasets.eval_loader import build_eval_loader
    from utils.inference.backend import network_size

    height, width = network_size([options.imgsz], backend)
    if height != width:
        raise UserError(
            f"{backend.origin} accepts only images of {height} x {width}, but val.py needs square "
            "ones; export it again with one number as --imgsz, or with --dynamic."
        )
    return build_eval_loader(
        index,
        image_size=height,
        batch_size=options.batch_size,
        workers=options.workers,
        rect=not options.speed and backend.input_size is None,
        stride=backend.max_stride,
        for_gpu=for_gpu,
    )


def log_results(evaluation: Evaluation, *, verbose: bool) -> None:
    """Log the metrics and the speed; lists the classes with --verbose or if there are few."""
    from utils.evaluation.report import log_table

    few = 1 < len(evaluation.names) < MAX_CLASSES_LISTED
    log_table(evaluation, per_class=verbose or few)
    log.info(
        "Speed: %.1f ms pre-process, %.1f ms inference, %.1f ms NMS per image",
        *evaluation.speed_ms,
    )


if __name__ == "__main__":
    run_script(main)
