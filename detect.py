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
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import UserError
from utils.options.arguments import add_options, parse_options
from utils.options.detect_options import SAMPLES, DetectOptions
from utils.options.script import OptionParser, run_script

# Heavy modules are imported where they are used, so that --help is printed at once.
if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import numpy as np

    from utils.inference.outputs import OutputSettings, PredictionFiles
    from utils.inference.predictor import Prediction, Predictor, Speed
    from utils.inference.sources import SourceImage

log = logging.getLogger("yolo")

STOP_KEYS = (27, ord("q"))  # escape is 27
OPENCV_QUIET = "SILENT"  # what cannot be opened is reported in one sentence of our own
FFMPEG_QUIET = "-8"  # its messages name URLs with passwords, and come by the hundred
INCOMPLETE = 1  # exit code
READ_AHEAD = 4  # images; a batch, if it is larger


def build_parser() -> argparse.ArgumentParser:
    """The parser of `detect.py`."""
    parser = OptionParser(description="Detect objects in images, videos and streams.")
    add_options(parser, DetectOptions)
    return parser


def main() -> None:
    """Parse the command line and detect."""
    options = parse_options(build_parser(), DetectOptions)
    if options.view_img:
        require_display()
    from utils.runtime.device import out_of_memory_as_user_error

    os.environ.setdefault("OPENCV_LOG_LEVEL", OPENCV_QUIET)  # read when cv2 is imported
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", FFMPEG_QUIET)
    failed: list[str] = []
    with out_of_memory_as_user_error("use a smaller --batch-size or --imgsz"):
        detect(options, failed)
    if failed:
        raise SystemExit(INCOMPLETE)


def detect(options: DetectOptions, failed: list[str] | None = None) -> Path:
    """Run the detector on the sources and save the results.

    Args:
        options: the command line.
        failed: receives the sources that could not be read, or not to their end.

    Returns:
        The run folder.

    Raises:
        UserError: if an option or a file is invalid.
    """
    from models.torchvision_operators import check_nms
    from utils.inference.backend import network_size, open_backend
    from utils.inference.outputs import PredictionFiles
    from utils.inference.predictor import DetectSettings, Predictor
    from utils.inference.sources import open_source
    from utils.runs.folder import create_run_folder
    from utils.runtime.device import keep_freed_memory, select_device

    device = select_device(options.device)
    keep_freed_memory(device)
    check_nms()
    if options.half and device.type == "cpu":
        raise UserError("--half needs a GPU; omit it on a CPU.")
    backend = open_backend(options.weights, device, half=options.half, augment=options.augment)
    names = class_names(options, backend.names)
    source = open_source(
        sources_of(options),
        image_size=network_size(options.imgsz, backend),
        stride=backend.max_stride,
        auto=backend.input_size is None,
        vid_stride=options.vid_stride,
        failed=failed,
    )
    settings = DetectSettings(
        options.conf_thres,
        options.iou_thres,
        options.max_det,
        options.classes,
        options.agnostic_nms,
    )
    predictor = Predictor(backend, settings)
    folder = create_run_folder(options.project, options.name, options.exist_ok)
    with PredictionFiles(folder, names, output_settings(options)) as files:
        speeds = detect_all(options, source, predictor, files, names)
    log_summary(speeds, folder, files.label_files)
    return folder


def detect_all(
    options: DetectOptions,
    source: Generator[SourceImage],
    predictor: Predictor,
    files: PredictionFiles,
    names: Sequence[str],
) -> list[Speed]:
    """Predict, report, show and write all images in order; return the speed of each.

    Reading and writing have a thread each, which works while this one predicts.
    """
    from utils.runtime.background import BackgroundWorker, read_ahead

    def depth(loaded: SourceImage) -> int:
        return 0 if loaded.is_live else max(READ_AHEAD, options.batch_size)

    speeds = []
    with closing(read_ahead(source, depth)) as images, BackgroundWorker() as writer:
        for loaded, prediction in predictor.in_batches(images, options.batch_size):
            speeds.append(prediction.speed)
            log.info(report_line(loaded, prediction, names))
            annotated = files.annotate(loaded, prediction.detections) if options.view_img else None
            writer.submit(partial(files.write, loaded, prediction.detections, annotated))
            if annotated is not None and show(loaded, annotated):
                break
    return speeds


def sources_of(options: DetectOptions) -> Sequence[str]:
    """The sources; draws the sample images if there are none.

    Raises:
        UserError: if the sample images cannot be written.
    """
    if options.source != [SAMPLES] or Path(SAMPLES).is_dir():
        return options.source
    from data.street_scenes.make import make_samples
    from utils.datasets.cache_files import cache_home
    from utils.files.writable import is_writable

    data = Path(__file__).resolve().parent / "data"
    folder = (data if is_writable(data) else cache_home()) / Path(SAMPLES).name
    try:
        make_samples(folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; give a --source.") from error
    return [str(folder)]


def require_display() -> None:
    """Check on Linux that there is a display to show images on.

    Raises:
        UserError: if there is none.
    """
    has_display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not has_display:
        raise UserError("--view-img needs a display; omit it and open the saved images.")


def class_names(options: DetectOptions, own: tuple[str, ...]) -> tuple[str, ...]:
    """The class names to show: those of --data, else the model's own.

    Raises:
        UserError: if --data or --classes does not match the model.
    """
    names = own
    if options.data:
        from utils.datasets.description import load_description

        names = load_description(options.data).names
        if len(names) != len(own):
            raise UserError(
                f"--data {options.data} has {len(names)} classes, but {' '.join(options.weights)} "
                f"detects {len(own)}; omit --data to use the names in the weights file."
            )
    unknown = [label for label in options.classes or () if not 0 <= label < len(names)]
    if unknown:
        raise UserError(f"--classes {unknown[0]}: must be between 0 and {len(names) - 1}.")
    return names


def output_settings(options: DetectOptions) -> OutputSettings:
    """The settings of the output, from the options."""
    from utils.inference.outputs import OutputSettings

    return OutputSettings(
        images=not options.nosave,
        txt=options.save_txt,
        txt_format=options.save_format,
        txt_confidence=options.save_conf,
        csv=options.save_csv,
        crops=options.save_crop,
        line_thickness=options.line_thickness,
        hide_labels=options.hide_labels,
        hide_conf=options.hide_conf,
    )


def report_line(loaded: SourceImage, prediction: Prediction, names: Sequence[str]) -> str:
    """One line per image, in the format of YOLOv5: source, network input, detections, time."""
    from utils.files.download import without_secrets
    from utils.inference.outputs import count_detections

    where = f"{loaded.kind} {loaded.number}/{loaded.files}"
    if loaded.kind == "video":
        of = f"/{loaded.frames}" if loaded.frames else ""
        where += f" ({loaded.frame}{of})"
    height, width = loaded.network.shape[:2]
    what = count_detections(prediction.detections[:, 5], names)
    path = without_secrets(loaded.path)
    return f"{where} {path}: {height}x{width} {what}, {prediction.speed.inference:.1f}ms"


def show(loaded: SourceImage, annotated: np.ndarray) -> bool:
    """Show an annotated image in a window.

    Returns:
        Whether the user pressed q or escape.

    Raises:
        UserError: if OpenCV was built without window support.
    """
    import cv2

    from utils.inference.sources import file_name

    try:
        cv2.imshow(file_name(loaded.path).name, annotated)
        key = cv2.waitKey(1)
    except cv2.error as error:
        raise UserError(
            "--view-img needs OpenCV with window support; omit it and open the saved images."
        ) from error
    return key in STOP_KEYS


def log_summary(speeds: Sequence[Speed], folder: Path, label_files: int) -> None:
    """Log the mean speed and the output folder."""
    means = [sum(part) / len(speeds) for part in zip(*speeds, strict=True)]
    log.info("Speed: %.1fms pre-process, %.1fms inference, %.1fms NMS per image", *means)
    if label_files:
        log.info("%d labels saved to %s", label_files, folder / "labels")
    if any(folder.iterdir()):
        log.info("Results saved to %s", folder)


if __name__ == "__main__":
    run_script(main)
