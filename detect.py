"""Detect objects in images, videos and streams.

Usage:
    python detect.py --weights yolov5s.pt --source image.jpg          # or a folder, video.mp4,
                                                                      # 'shots/*.jpg', list.txt,
                                                                      # 0 (camera), rtsp://...
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import UserError
from utils.options.script import OptionParser, run_script

# What is heavy is imported where it is used, so that --help answers at once.
if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from utils.inference.outputs import OutputSettings
    from utils.inference.predictor import Prediction, Speed
    from utils.inference.sources import SourceImage

log = logging.getLogger("yolo")

KEYS_TO_STOP = (27, ord("q"))  # escape is 27
MAX_SIZES = 2  # of --imgsz: height and width


def build_parser() -> argparse.ArgumentParser:
    """The options of this program."""
    parser = OptionParser(
        description="Detect objects in images, videos and streams.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--weights", default="yolov5s.pt", help="weights file, ours or upstream's")
    add("--source", default="data/images", help="file, folder, glob, list.txt, URL or camera")
    add("--data", default="", help="data-set file to take class names from instead of the weights")
    add(
        "--imgsz",
        "--img",
        "--img-size",
        type=int,
        nargs="+",
        default=[640],
        help="size, or h w, px",
    )
    add("--conf-thres", type=float, default=0.25, help="least confidence")
    add("--iou-thres", type=float, default=0.45, help="overlap in NMS")
    add("--max-det", type=int, default=1000, help="most detections per image")
    add("--device", default="", help="number of a GPU, or cpu")
    add("--view-img", action="store_true", help="show the results in a window; q stops")
    add("--save-txt", action="store_true", help="write detections as label files")
    add("--save-format", type=int, choices=(0, 1), default=0, help="of label files: 0 YOLO, 1 VOC")
    add("--save-csv", action="store_true", help="write predictions.csv")
    add("--save-conf", action="store_true", help="write confidences into label files")
    add("--save-crop", action="store_true", help="write a cut-out of every detection")
    add("--nosave", action="store_true", help="write no pictures and videos")
    add("--classes", type=int, nargs="+", help="detect these only: --classes 0 2 3")
    add("--agnostic-nms", action="store_true", help="different classes suppress each other too")
    add("--project", default="runs/detect", help="folder of runs")
    add("--name", default="exp", help="folder of this run, numbered if it is taken")
    add("--exist-ok", action="store_true", help="use the folder even if it is taken")
    add("--line-thickness", type=int, default=3, help="of the boxes, px")
    add("--hide-labels", action="store_true", help="draw boxes without names")
    add("--hide-conf", action="store_true", help="draw names without confidences")
    add("--half", action="store_true", help="compute in fp16, on a GPU")
    add("--vid-stride", type=int, default=1, help="look at every n-th frame of videos")
    return parser


def main() -> None:
    """Parse, check, detect."""
    args = build_parser().parse_args()
    check_options(args)
    detect(args)


def detect(args: argparse.Namespace) -> Path:
    """Build in the order in which the data flow, detect, report; returns the folder of the run."""
    from utils.inference.outputs import PredictionFiles
    from utils.inference.predictor import DetectSettings, Predictor
    from utils.inference.sources import open_source
    from utils.runs.folder import numbered_run_folder
    from utils.runtime.device import keep_freed_memory, select_device
    from utils.weights import load_model

    device = select_device(args.device)
    keep_freed_memory(device)
    if args.half and device.type == "cpu":
        raise UserError("--half needs a GPU; leave it out on a CPU.")
    loaded_model = load_model(args.weights, device)
    names = class_names(args, loaded_model.names)
    stride = loaded_model.model.max_stride
    source = open_source(
        args.source,
        image_size=network_size(args.imgsz, stride),
        stride=stride,
        vid_stride=args.vid_stride,
    )
    predictor = Predictor(
        loaded_model.model,
        device,
        DetectSettings(
            args.conf_thres, args.iou_thres, args.max_det, args.classes, args.agnostic_nms
        ),
        half=args.half,
    )
    folder = numbered_run_folder(args.project, args.name, args.exist_ok)
    speeds: list[Speed] = []
    with PredictionFiles(folder, names, output_settings(args)) as files:
        for loaded in source:
            prediction = predictor(loaded)
            speeds.append(prediction.speed)
            log.info(report_line(loaded, prediction, names))
            annotated = None
            if args.view_img or not args.nosave:
                annotated = files.annotate(loaded, prediction.detections)
            files.write(loaded, prediction.detections, annotated)
            if args.view_img and annotated is not None and stopped(loaded, annotated):
                break
    summarise(speeds, folder, files.label_files)
    return folder


def check_options(args: argparse.Namespace) -> None:
    """Refuse option values that cannot work.

    Raises:
        UserError: one of them is out of range, or there is no display to view images on.
    """
    for flag, value in (("--conf-thres", args.conf_thres), ("--iou-thres", args.iou_thres)):
        if not 0 <= value <= 1:
            raise UserError(f"{flag} {value}: give a number from 0 to 1.")
    counts = {"--max-det": args.max_det, "--vid-stride": args.vid_stride}
    counts["--line-thickness"] = args.line_thickness
    for flag, count in counts.items():
        if count < 1:
            raise UserError(f"{flag} {count}: give at least 1.")
    if len(args.imgsz) > MAX_SIZES or min(args.imgsz) < 1:
        raise UserError("--imgsz: give one size, or the height and the width, in pixels.")
    has_display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if args.view_img and sys.platform.startswith("linux") and not has_display:
        raise UserError("--view-img: there is no display; look at the saved pictures instead.")


def class_names(args: argparse.Namespace, own: tuple[str, ...]) -> tuple[str, ...]:
    """The names to show: the model's own, or those of --data.

    Raises:
        UserError: --data or --classes does not fit the model.
    """
    names = own
    if args.data:
        from utils.datasets.description import load_description

        names = load_description(args.data).names
        if len(names) != len(own):
            raise UserError(
                f"--data {args.data} names {len(names)} classes, but {args.weights} detects "
                f"{len(own)}; leave --data out to use the names in the weights file."
            )
    unknown = [label for label in args.classes or () if not 0 <= label < len(names)]
    if unknown:
        raise UserError(f"--classes {unknown[0]}: the model's classes are 0 to {len(names) - 1}.")
    return names


def network_size(sizes: Sequence[int], stride: int) -> tuple[int, int]:
    """(height, width) of the network input: --imgsz, rounded up to multiples of the stride."""
    from utils.datasets.rect_batches import whole_strides

    height, width = sizes[0], sizes[-1]
    rounded = (whole_strides(height, stride), whole_strides(width, stride))
    if rounded != (height, width):
        log.warning("--imgsz must be a multiple of the stride %d: %d x %d it is", stride, *rounded)
    return rounded


def output_settings(args: argparse.Namespace) -> OutputSettings:
    """What to write, from the options."""
    from utils.inference.outputs import OutputSettings

    return OutputSettings(
        pictures=not args.nosave,
        txt=args.save_txt,
        txt_format=args.save_format,
        txt_confidence=args.save_conf,
        csv=args.save_csv,
        crops=args.save_crop,
        line_thickness=args.line_thickness,
        hide_labels=args.hide_labels,
        hide_conf=args.hide_conf,
    )


def report_line(loaded: SourceImage, prediction: Prediction, names: Sequence[str]) -> str:
    """One line on one image, as upstream prints it: where, network input, what, how long."""
    where = f"{loaded.kind} {loaded.number}/{loaded.files}"
    if loaded.kind == "video":
        of = f"/{loaded.frames}" if loaded.frames else ""
        where += f" ({loaded.frame}{of})"
    height, width = loaded.network.shape[:2]
    counts = Counter(int(label) for label in prediction.detections[:, 5])
    found = [f"{n} {names[label]}{'s' * (n > 1)}" for label, n in sorted(counts.items())]
    what = ", ".join(found or ["(no detections)"])
    return f"{where} {loaded.path}: {height}x{width} {what}, {prediction.speed.inference:.1f}ms"


def stopped(loaded: SourceImage, annotated: np.ndarray) -> bool:
    """Show a picture in a window; returns whether the user pressed q or escape.

    Raises:
        UserError: this OpenCV has no windows.
    """
    import cv2

    try:
        cv2.imshow(Path(loaded.path).name, annotated)
        key = cv2.waitKey(1)
    except cv2.error as error:
        raise UserError(
            "--view-img: this OpenCV was built without windows; leave it out."
        ) from error
    return key in KEYS_TO_STOP


def summarise(speeds: Sequence[Speed], folder: Path, label_files: int) -> None:
    """Log the mean speed and where the results are."""
    means = [sum(part) / len(speeds) for part in zip(*speeds, strict=True)]
    log.info("Speed: %.1fms pre-process, %.1fms inference, %.1fms NMS per image", *means)
    if label_files:
        log.info("%d labels saved to %s", label_files, folder / "labels")
    if any(folder.iterdir()):
        log.info("Results saved to %s", folder)


if __name__ == "__main__":
    run_script(main)
