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
from utils.options.script import OptionParser, run_script

# What is heavy is imported where it is used, so that --help answers at once.
if TYPE_CHECKING:
    from utils.datasets.description import DatasetDescription
    from utils.datasets.ignore_regions import IgnoreRegions
    from utils.datasets.index import Index
    from utils.datasets.loader import BatchLoader
    from utils.evaluation.citypersons import MissRateEvaluator
    from utils.evaluation.evaluate import EvalSettings, Evaluation, Observer
    from utils.weights import LoadedModel

log = logging.getLogger("yolo")

CONF_THRES, IOU_THRES = 0.001, 0.6
# --task speed times what a user of detect.py waits for, without the far end of the PR curve.
SPEED_CONF_THRES, SPEED_IOU_THRES = 0.25, 0.45
MAX_CLASSES_LISTED = 50


def build_parser() -> argparse.ArgumentParser:
    """The options of this program."""
    parser = OptionParser(
        prog="val.py",
        description="Validate a detector on a labelled data set.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", default="coco128.yaml", help="data-set file")
    add("--weights", default="yolov5s.pt", help="weights file, ours or upstream's")
    add("--batch-size", type=int, default=32, help="images per batch")
    add("--imgsz", "--img", "--img-size", type=int, default=640, help="pixels of the long side")
    add("--conf-thres", type=float, default=CONF_THRES, help="least confidence; 0.25 for speed")
    add("--iou-thres", type=float, default=IOU_THRES, help="overlap in NMS; 0.45 for speed")
    add("--max-det", type=int, default=300, help="most detections per image")
    add(
        "--task",
        choices=("train", "val", "test", "speed"),
        default="val",
        help="split to validate on, or speed: square images of the val split, no pictures",
    )
    add(
        "--device",
        default="",
        help="cpu, mps or the number of a GPU; first GPU, else cpu, if empty",
    )
    add("--workers", type=int, default=8, help="loader processes")
    add("--single-cls", action="store_true", help="treat all classes as one")
    add("--verbose", action="store_true", help="print a row per class, however many there are")
    add("--save-txt", action="store_true", help="write detections as label files")
    add("--save-conf", action="store_true", help="add the confidence to --save-txt")
    add("--save-json", action="store_true", help="write COCO results, and judge them as COCO does")
    add("--miss-rate", action="store_true", help="log-average miss rate, as CityPersons' benchmark")
    add("--project", default="runs/val", help="folder of runs")
    add("--name", default="exp", help="folder of this run")
    add("--exist-ok", action="store_true", help="write into an existing folder")
    add("--half", action="store_true", help="fp16, on a GPU")
    add("--noplots", action="store_true", help="draw no pictures")
    return parser


def main() -> None:
    """Read the command line and validate."""
    args = build_parser().parse_args()
    check_options(args)
    validate(args)


def validate(args: argparse.Namespace) -> Path:
    """Build in the order in which the data flow, evaluate, report; returns the folder of the run.

    Raises:
        UserError: the options, the weights and the data do not go together.
    """
    from models.detector import fuse
    from utils.datasets.description import COCO, load_description, require_obtainable, truth_file
    from utils.evaluation import report
    from utils.evaluation.coco_eval import CocoBenchmark
    from utils.evaluation.evaluate import evaluate, evaluated_names
    from utils.runs.folder import numbered_run_folder
    from utils.runtime.device import keep_freed_memory, select_device
    from utils.weights import load_model

    device = select_device(args.device)
    keep_freed_memory(device)
    if args.half and device.type == "cpu":
        raise UserError("--half needs a GPU; leave it out on a CPU.")
    description = load_description(args.data)
    require_obtainable(description, (split_of(args),))
    loaded = load_model(args.weights, device)
    if not args.single_cls:
        require_same_classes(description, loaded)
    index = build_split_index(args, description)
    loader = build_loader(args, index, loaded.model.max_stride)
    names = evaluated_names(description.names, single_class=args.single_cls)
    ignore = index.ignored
    pedestrians = miss_rate_evaluator(description, names, index) if args.miss_rate else None
    published = truth_file(description, COCO)
    coco = CocoBenchmark(index, names, ignore, published) if args.save_json else None
    folder = numbered_run_folder(args.project, args.name, args.exist_ok)
    drawing = not args.noplots and args.task != "speed"
    observers: list[Observer] = [judge for judge in (coco, pedestrians) if judge is not None]
    if drawing:
        observers.append(report.BatchPlots(folder, names))
    if args.save_txt:
        observers.append(report.TextFiles(folder / "labels", with_confidence=args.save_conf))
    evaluation = evaluate(
        fuse(loaded.model),
        loader,
        names=description.names,
        device=device,
        settings=eval_settings(args, ignore),
        observers=observers,
    )
    log_results(evaluation, verbose=args.verbose)
    benchmarks: dict[str, object] = {}
    if coco:
        results = folder / f"{Path(args.weights).stem}_predictions.json"
        benchmarks |= coco.report(evaluation, results)
    if pedestrians:
        benchmarks |= pedestrians.report(folder / "miss_rate.png" if drawing else None)
    report.save_metrics(evaluation, folder / "metrics.json", benchmarks)
    if drawing:
        report.save_plots(evaluation, folder)
    log.info("Results saved to %s", folder)
    return folder


def require_same_classes(description: DatasetDescription, loaded: LoadedModel) -> None:
    """Refuse data and weights of different numbers of classes.

    Raises:
        UserError: they are.
    """
    if len(loaded.names) != len(description.names):
        raise UserError(
            f"{description.path} has {len(description.names)} classes, but {loaded.origin} detects "
            f"{len(loaded.names)}; choose data and weights that belong together, or --single-cls."
        )


def check_options(args: argparse.Namespace) -> None:
    """Refuse values that make no sense.

    Raises:
        UserError: for the first of them.
    """
    for name, least in (("batch_size", 1), ("imgsz", 1), ("max_det", 1), ("workers", 0)):
        if getattr(args, name) < least:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {getattr(args, name)}: give a number of at least {least}.")
    for name in ("conf_thres", "iou_thres"):
        if not 0 <= getattr(args, name) <= 1:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {getattr(args, name)}: give a number from 0 to 1.")
    if args.save_conf and not args.save_txt:
        raise UserError("--save-conf adds to the files of --save-txt; give that too.")


def eval_settings(args: argparse.Namespace, ignore: IgnoreRegions | None = None) -> EvalSettings:
    """How to detect; --task speed has thresholds of its own unless others are given."""
    from utils.evaluation.evaluate import EvalSettings

    speed = args.task == "speed"
    conf_thres, iou_thres = args.conf_thres, args.iou_thres
    return EvalSettings(
        conf_thres=SPEED_CONF_THRES if speed and conf_thres == CONF_THRES else conf_thres,
        iou_thres=SPEED_IOU_THRES if speed and iou_thres == IOU_THRES else iou_thres,
        max_det=args.max_det,
        single_class=args.single_cls,
        precision="fp16" if args.half else "fp32",
        ignore=ignore,
    )


def miss_rate_evaluator(
    description: DatasetDescription, names: Sequence[str], index: Index
) -> MissRateEvaluator:
    """The observer of --miss-rate.

    Raises:
        UserError: the data set has no ground truth in the benchmark's format, or that is refused.
    """
    from utils.datasets.description import MISS_RATE
    from utils.evaluation.citypersons import MissRateEvaluator, pedestrian_target

    target = pedestrian_target(description, names, index.paths)
    if target is None:
        raise UserError(
            f"--miss-rate needs ground truth in CityPersons' format; name it under `{MISS_RATE}:` "
            f"in {description.path}, or let `python -m utils.tools.convert citypersons` do so."
        )
    return MissRateEvaluator(target)


def split_of(args: argparse.Namespace) -> str:
    """The split that a task is about."""
    return "val" if args.task == "speed" else str(args.task)


def build_split_index(args: argparse.Namespace, description: DatasetDescription) -> Index:
    """The images and labels of the split that is asked for."""
    from utils.datasets.description import ensure_available
    from utils.datasets.index import build_index

    split = split_of(args)
    ensure_available(description, (split,))
    return build_index(
        description.split(split),
        description.names,
        single_class=args.single_cls,
        workers=args.workers,
    )


def build_loader(args: argparse.Namespace, index: Index, stride: int) -> BatchLoader:
    """The images in batches: rectangular ones, or squares to measure speed."""
    from utils.datasets.loader import build_eval_loader
    from utils.datasets.rect_batches import whole_strides

    image_size = whole_strides(args.imgsz, stride)
    if image_size != args.imgsz:
        log.warning("--imgsz %d is not a multiple of %d: %d it is.", args.imgsz, stride, image_size)
    return build_eval_loader(
        index,
        image_size=image_size,
        batch_size=args.batch_size,
        workers=args.workers,
        rect=args.task != "speed",
        stride=stride,
    )


def log_results(evaluation: Evaluation, *, verbose: bool) -> None:
    """Log the table, with classes if they are asked for or few, and the speed."""
    from utils.evaluation.report import log_table

    few = 1 < len(evaluation.names) < MAX_CLASSES_LISTED
    log_table(evaluation, per_class=verbose or few)
    log.info(
        "Speed: %.1f ms pre-process, %.1f ms inference, %.1f ms NMS per image",
        *evaluation.speed_ms,
    )


if __name__ == "__main__":
    run_script(main)
