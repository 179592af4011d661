"""Measures the time of each stage of validation.

Usage: python benchmarks/validate.py --weights yolov5n.pt --data coco128.yaml --batch-size 16
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    # A script starts with its own folder on sys.path; imports need the repository root instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import add_common_options, compare
from benchmarks.timing import MILLISECONDS, Measure, Measurements, PeakMemory
from utils.options.script import OptionParser, run_script

# Slow modules are imported inside the functions that use them: --help must be fast.
if TYPE_CHECKING:
    from utils.datasets.dataset import Batch


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this program's options."""
    parser = OptionParser(
        prog="python benchmarks/validate.py",
        description="Measure the stages of utils.evaluation.evaluate, in milliseconds per image.",
    )
    add = parser.add_argument
    add("--weights", default="yolov5n.pt", help="weights file (default: yolov5n.pt)")
    add("--data", default="coco128.yaml", help="data-set file (default: coco128.yaml)")
    add("--imgsz", type=int, default=640, help="image size in pixels (default: 640)")
    add("--batch-size", type=int, default=16, help="batch size (default: 16)")
    add("--workers", type=int, default=0, help="loader processes (default: 0)")
    add(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        default="fp32",
        help="precision (default: fp32)",
    )
    add(
        "--fuse",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fold batch norms into convolutions (default: on)",
    )
    add("--device", default="", help="device, as for val.py (default: first GPU, else cpu)")
    add_common_options(parser, rounds=3, against="--precision bf16")
    return parser


def main() -> None:
    """Measure the variants of the command line."""
    compare(build_parser(), prepare)


def prepare(args: argparse.Namespace) -> Measure:
    """Load the weights and the data of a variant; a round validates once.

    Raises:
        UserError: an option, the weights or the data set are invalid.
    """
    from models.detector import fuse
    from utils.datasets.description import ensure_available, load_description
    from utils.datasets.eval_loader import build_eval_loader
    from utils.datasets.index import build_index
    from utils.evaluation.evaluate import EvalSettings, evaluate
    from utils.runtime.device import keep_freed_memory, select_device
    from utils.weights import load_model

    device = select_device(args.device)
    keep_freed_memory(device)  # as train.py and val.py do
    model = load_model(args.weights, device).model
    model = fuse(model) if args.fuse else model
    description = load_description(args.data)
    ensure_available(description, ("val",))
    index = build_index(description.split("val"), description.names)
    loader = build_eval_loader(
        index, image_size=args.imgsz, batch_size=args.batch_size, workers=args.workers
    )

    def measure() -> Measurements:
        memory = PeakMemory(device)
        batches = TimedBatches(loader)
        began = time.perf_counter()
        result = evaluate(
            model,
            batches,
            names=description.names,
            device=device,
            settings=EvalSettings(precision=args.precision),
        )
        whole = (time.perf_counter() - began) * MILLISECONDS / result.images
        waiting = batches.seconds * MILLISECONDS / result.images
        return {
            "loading, ms/image": waiting,
            **dict(zip(STAGES, result.speed_ms, strict=True)),
            "metrics, ms/image": whole - waiting - sum(result.speed_ms),
            "whole, ms/image": whole,
            "images/s": MILLISECONDS / whole,
            "mAP50": result.map50,
            "mAP50-95": result.map50_95,
            "peak memory, MB": memory.megabytes(),
        }

    return measure


STAGES = ("pre-process, ms/image", "inference, ms/image", "NMS, ms/image")
"""Names of the entries of `speed_ms`."""


class TimedBatches:
    """Iterates over batches and adds up the time spent waiting for them, in `seconds`.

    Args:
        batches: a loader's batches.
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        began = time.perf_counter()
        for batch in self._batches:
            self.seconds += time.perf_counter() - began
            yield batch
            began = time.perf_counter()
        self.seconds += time.perf_counter() - began


if __name__ == "__main__":
    run_script(main)
