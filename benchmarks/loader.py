"""Measures training samples per second and core, and the time of each stage of the loader.

Usage: python benchmarks/loader.py --data coco128.yaml --imgsz 640 --against='--cache ram'
"""

from __future__ import annotations

import argparse
import sys
import time
from cProfile import Profile
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    # A script starts with its own folder on sys.path; imports need the repository root instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import add_common_options, compare
from benchmarks.timing import MILLISECONDS, Measure, Measurements
from utils.options.script import OptionParser, run_script

# Slow modules are imported inside the functions that use them: --help must be fast.
if TYPE_CHECKING:
    from utils.datasets.loader import TrainLoader

STAGES = {
    "read_image": "decode",
    "resize": "resize",
    "resize_into": "stretch",
    "warp_image": "warp",
    "apply_mixup": "mixup",
    "apply_hsv_gains": "HSV",
    "apply_flips": "flip",
    "resize_along_axis": "places",
    "warp_matrix": "places",
    "visible_window": "places",
    "to_pixels": "labels",
    "from_pixels": "labels",
    "warp_boxes": "labels",
    "still_visible": "labels",
    "sample_augment_params": "draws",
}
"""Stage by function that the pipeline's files call."""
REST_STAGE = "rest"
PIPELINE_FILES = ("dataset.py", "mosaic.py", "image_cache.py")
"""Files in utils/datasets whose functions are split into stages, rather than being stages."""
DECODE_FUNCTION = "read_image"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this program's options."""
    parser = OptionParser(
        prog="python benchmarks/loader.py",
        description="Measure training samples per second and core, and milliseconds per sample and "
        "stage.",
    )
    add = parser.add_argument
    add("--data", default="coco128.yaml", help="data-set file (default: coco128.yaml)")
    add("--imgsz", type=int, default=640, help="image size in pixels (default: 640)")
    add("--batch-size", type=int, default=16, help="samples per batch (default: 16)")
    add(
        "--hyp",
        default="hyp.scratch-low.yaml",
        help="hyper-parameter file, for augmentation (default: hyp.scratch-low.yaml)",
    )
    add(
        "--cache",
        choices=("none", "ram", "disk"),
        default="none",
        help="image cache (default: none)",
    )
    add(
        "--workers",
        type=int,
        default=0,
        help="loader processes; 0: load in this process and time the stages (default: 0)",
    )
    add("--epochs", type=int, default=1, help="epochs per round (default: 1)")
    add_common_options(parser, rounds=5, against="--cache ram")
    return parser


def main() -> None:
    """Measure the variants of the command line."""
    compare(build_parser(), prepare)


def prepare(args: argparse.Namespace) -> Measure:
    """Build the training loader of a variant; each round reads the next epochs.

    Raises:
        UserError: the data set or the hyper-parameters are invalid.
    """
    import cv2
    import torch

    from utils.datasets.description import ensure_available, load_description
    from utils.datasets.index import build_index
    from utils.datasets.loader import build_train_loader
    from utils.hyp import load_hyp

    # As in a worker process: one thread per core.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    description = load_description(args.data)
    ensure_available(description, ("train",))
    loader = build_train_loader(
        build_index(description.split("train"), description.names),
        image_size=args.imgsz,
        batch_size=args.batch_size,
        hyp=load_hyp(args.hyp),
        seed=0,
        workers=args.workers,
        cache=None if args.cache == "none" else args.cache,
    )
    epoch = 0

    def measure() -> Measurements:
        nonlocal epoch
        epochs = range(epoch, epoch + args.epochs)
        epoch = epochs.stop
        result = throughput(loader, epochs, args.workers)
        if args.workers == 0:
            result |= stage_times(loader, epochs)
        return result

    return measure


def throughput(loader: TrainLoader, epochs: range, workers: int) -> Measurements:
    """Return samples per second, and per core: by CPU time of this process, or by worker."""
    began, cpu_began = time.perf_counter(), time.process_time()
    samples = read_epochs(loader, epochs)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    return {
        "samples/s": samples / wall,
        "samples/s/core": samples / (workers * wall if workers else cpu),
    }


def read_epochs(loader: TrainLoader, epochs: range) -> int:
    """Read whole epochs; return the number of samples."""
    return sum(len(batch.images) for epoch in epochs for batch in loader.batches(epoch))


def stage_times(loader: TrainLoader, epochs: range) -> Measurements:
    """Return milliseconds per sample and share of each stage; profiling adds a few percent."""
    profile = Profile()
    profile.enable()
    samples = read_epochs(loader, epochs)
    profile.disable()
    seconds = stage_seconds(profile)
    whole = sum(seconds.values())
    decoded = sum(
        e.callcount for e in profile.getstats() if _function_name(e.code) == DECODE_FUNCTION
    )
    result = {"images decoded/sample": decoded / samples}
    result |= {f"{s}, ms": t / samples * MILLISECONDS for s, t in seconds.items()}
    return result | {f"{s}, % of sample": 100 * t / whole for s, t in seconds.items()}


def stage_seconds(profile: Profile) -> dict[str, float]:
    """Return seconds by stage; calls whose name is not in `STAGES` count as `REST_STAGE`."""
    seconds = dict.fromkeys((*STAGES.values(), REST_STAGE), 0.0)
    for entry in profile.getstats():
        if not _in_pipeline(entry.code):
            continue
        seconds[REST_STAGE] += entry.inlinetime
        for callee in entry.calls or ():
            if not _in_pipeline(callee.code):
                seconds[STAGES.get(_function_name(callee.code), REST_STAGE)] += callee.totaltime
    return {stage: value for stage, value in seconds.items() if value > 0}


def _in_pipeline(code: object) -> bool:
    """Return whether a code object comes from the pipeline's files; built-ins do not."""
    path = Path(getattr(code, "co_filename", ""))
    return path.parts[-3:-1] == ("utils", "datasets") and path.name in PIPELINE_FILES


def _function_name(code: object) -> str:
    """Return `resize` for that function's code, '<resize>' or '<built-in method cv2.resize>'."""
    name: str = getattr(code, "co_name", str(code).strip("<>").rpartition(" ")[2])
    return name.rpartition(".")[2]


if __name__ == "__main__":
    run_script(main)
