"""Measures frames per second of detect.py on a video, overlapped and one stage after another.

Usage: python benchmarks/video.py --weights yolov5n.pt
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    # A script starts with its own folder on sys.path; imports need the repository root instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import add_common_options, compare
from benchmarks.timing import MILLISECONDS, Measure, Measurements
from utils.options.script import OptionParser, run_script

# Slow modules are imported inside the functions that use them: --help must be fast.

WIDTH, HEIGHT, FPS = 1920, 1080, 30
SCENES = 3  # beside each other; the camera pans over them
NOISE = 12  # grey levels
PIXELS_PER_FRAME = 8


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this program's options."""
    parser = OptionParser(
        prog="python benchmarks/video.py",
        description="Measure detect.py on a generated 1080p video: frames per second of the whole "
        "loop, and processor time of its stages.",
    )
    add = parser.add_argument
    add("--weights", default="yolov5n.pt", help="weights file (default: yolov5n.pt)")
    add("--imgsz", type=int, default=640, help="image size in pixels (default: 640)")
    add("--frames", type=int, default=150, help="length of the video (default: 150)")
    add("--vid-stride", type=int, default=1, help="process every N-th frame (default: 1)")
    add("--device", default="", help="device, as for detect.py (default: first GPU, else cpu)")
    add(
        "--one-by-one",
        action="store_true",
        help="read, predict and write in turns, in one thread; also reports each stage",
    )
    add_common_options(parser, rounds=3, against="--one-by-one")
    return parser


def main() -> None:
    """Measure the variants of the command line."""
    with tempfile.TemporaryDirectory(prefix="video-") as folder:
        compare(build_parser(), partial(prepare, folder=Path(folder)))


def prepare(args: argparse.Namespace, folder: Path) -> Measure:
    """Write the video and load the weights of a variant; a round detects on the whole video.

    Args:
        args: the options of the variant.
        folder: receives the video and the results.

    Raises:
        UserError: an option or the weights are invalid.
    """
    from detect import detect_all, log
    from utils.inference.backend import open_backend
    from utils.inference.outputs import OutputSettings, PredictionFiles
    from utils.inference.predictor import DetectSettings, Predictor
    from utils.inference.sources import open_source
    from utils.options.detect_options import DetectOptions
    from utils.runtime.device import keep_freed_memory, select_device

    device = select_device(args.device)
    keep_freed_memory(device)  # as detect.py does
    backend = open_backend(args.weights, device)
    predictor = Predictor(backend, DetectSettings())
    source = folder / "street.avi"  # the results are an .mp4
    write_video(source, args.frames)
    count = args.frames // args.vid_stride

    def measure() -> Measurements:
        images = open_source(
            str(source),
            image_size=(args.imgsz, args.imgsz),
            stride=backend.max_stride,
            vid_stride=args.vid_stride,
        )
        spent = dict.fromkeys(("read", "predict", "write"), 0.0)
        level = log.level
        log.setLevel("WARNING")  # no line per frame
        began, before = time.perf_counter(), time.process_time()
        with PredictionFiles(folder, backend.names, OutputSettings()) as files:
            if args.one_by_one:
                mark = before
                for image in images:
                    marks = [mark, time.process_time()]
                    (prediction,) = predictor([image])
                    marks.append(time.process_time())
                    files.write(image, prediction.detections)
                    marks.append(mark := time.process_time())
                    for stage, start, end in zip(spent, marks, marks[1:], strict=False):
                        spent[stage] += end - start
            else:
                detect_all(DetectOptions(), images, predictor, files, backend.names)
        wall, whole = time.perf_counter() - began, time.process_time() - before
        log.setLevel(level)
        stages = {f"{stage}, processor ms": s * MILLISECONDS / count for stage, s in spent.items()}
        return {
            "frames/s": count / wall,
            "wall ms/frame": wall * MILLISECONDS / count,
            "processor ms/frame": whole * MILLISECONDS / count,
            **(stages if args.one_by_one else {}),
        }

    return measure


def write_video(path: Path, frames: int) -> None:
    """Write a 1080p video: a camera pans over painted streets, with noise, as MPEG-4."""
    import cv2
    import numpy as np

    from data.street_scenes.scene import paint_scene

    scenes = [paint_scene(0, 0, number).image[..., ::-1] for number in range(SCENES)]
    size = (SCENES * WIDTH, HEIGHT)
    panorama = cv2.resize(np.ascontiguousarray(np.hstack(scenes)), size)
    noise = np.random.default_rng(0).integers(0, NOISE, (HEIGHT, WIDTH, 3), np.uint8)
    codec = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), codec, FPS, (WIDTH, HEIGHT))
    for frame in range(frames):
        left = frame * PIXELS_PER_FRAME % (size[0] - WIDTH)
        writer.write(cv2.add(panorama[:, left : left + WIDTH], np.roll(noise, frame, axis=1)))
    writer.release()


if __name__ == "__main__":
    run_script(main)
