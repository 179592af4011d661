"""How long validation takes, stage by stage.

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
    # Python looks for modules beside this file; they are imported from the root, as everywhere.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import add_common_options, compare
from benchmarks.timing import MILLISECONDS, Measure, PeakMemory, Results
from utils.options.script import OptionParser, run_script

# What is heavy is imported where it is used, so that --help answers at once.
if TYPE_CHECKING:
    from utils.datasets.dataset import Batch


def build_parser() -> argparse.ArgumentParser:
    """The options of this program."""
    parser = OptionParser(
        prog="python benchmarks/validate.py",
        description="The stages of utils.evaluation.evaluate, in milliseconds per image.",
    )
    add = parser.add_argument
    add("--weights", default="yolov5n.pt", help="weights file (default: yolov5n.pt)")
    add("--data", default="coco128.yaml", help="data-set file (default: coco128.yaml)")
    add("--imgsz", type=int, default=640, help="pixels (default: 640)")
    add("--batch-size", type=int, default=16, help="images (default: 16)")
    add("--workers", type=int, default=0, help="loader processes (default: 0)")
    add("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="default: fp32")
    add(
        "--fuse",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fold batch norms into convolutions",
    )
    add("--device", default="", help="as of val.py (default: first GPU, else cpu)")
    add_common_options(parser, rounds=3, against="--precision bf16")
    return parser


def main() -> None:
    """Measure the variants that the command line asks for."""
    compare(build_parser(), prepare)


def prepare(args: argparse.Namespace) -> Measure:
    """Load the weights and the data of a variant; a round validates once.

    Raises:
        UserError: an option, the weights or the data set are refused.
    """
    from models.detector import fuse
    from utils.datasets.description import ensure_available, load_description
    from utils.datasets.index import build_index
    from utils.datasets.loader import build_eval_loader
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

    def measure() -> Results:
        memory = PeakMemory(device)
        batches = WaitedFor(loader)
        began = time.perf_counter()
        found = evaluate(
            model,
            batches,
            names=description.names,
            device=device,
            settings=EvalSettings(precision=args.precision),
        )
        whole = (time.perf_counter() - began) * MILLISECONDS / found.images
        waiting = batches.seconds * MILLISECONDS / found.images
        return {
            "loading, ms/image": waiting,
            **dict(zip(STAGES, found.speed_ms, strict=True)),
            "metrics, ms/image": whole - waiting - sum(found.speed_ms),
            "whole, ms/image": whole,
            "images/s": MILLISECONDS / whole,
            "mAP50": found.map50,
            "mAP50-95": found.map50_95,
            "peak memory, MB": memory.megabytes(),
        }

    return measure


STAGES = ("pre-process, ms/image", "inference, ms/image", "NMS, ms/image")
"""Which `Evaluation.speed_ms` tells."""


class WaitedFor:
    """Batches, and how long those who take them have to wait.

    Args:
        batches: of a loader.
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
