"""Checks that a GPU computes what the CPU computes, and measures its speed. POSIX only.

Usage: python benchmarks/device.py [--device cpu] [--json PATH]
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if __name__ == "__main__":
    # A script starts with its own folder on sys.path; imports need the repository root instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import FAILED, Check, align_columns, describe_machine
from utils.files.atomic_write import atomic_write_text
from utils.options.script import OptionParser, run_script

# Slow modules are imported inside the functions that use them: --help must be fast.
if TYPE_CHECKING:
    import torch

log = logging.getLogger("yolo")

EXIT_FAILED = 1
PARITY_SIZE, RUN_SIZE = 320, 160  # px, at most: the CPU computes these too
RUN_BATCH = 16


class Effort(NamedTuple):
    """How much to measure."""

    models: tuple[str, ...]
    batch_size: int
    batches: int
    """Maximum number of training batches per epoch."""
    seconds: float
    """Minimum duration of a measurement; at least one epoch."""


ON_GPU = Effort(("yolov5n.yaml", "yolov5s.yaml", "yolov5x.yaml"), 16, 100, 5.0)
ON_CPU = Effort(("yolov5n.yaml",), 2, 2, 0.0)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this program's options."""
    parser = OptionParser(
        prog="python benchmarks/device.py",
        description="Compare a GPU with the CPU, kill and resume a run, let one of two processes "
        "fail, measure speed and memory; offline, with random weights. On a CPU, run the checks "
        "that need no GPU.",
        epilog="exit code: 0 if all checks hold, else 1",
    )
    add = parser.add_argument
    add("--data", default="streets.yaml", help="data-set file (default: streets.yaml)")
    add("--cfg", nargs="+", help="model files, the first for the checks (default: yolov5n, s, x)")
    add("--imgsz", type=int, default=640, help="image size of the speed (default: 640)")
    add("--batch-size", type=int, help="batch size of the speed (default: 16, on a CPU 2)")
    add("--workers", type=int, help="loader processes (default: as for train.py)")
    add("--device", default="", help="device, as for train.py (default: first GPU, else cpu)")
    add("--json", type=Path, metavar="PATH", help="also write the results to this file")
    return parser


def main() -> None:
    """Run the checks, log a table, write the JSON file."""
    from utils.runtime.device import keep_freed_memory, select_device

    began = time.monotonic()
    args = build_parser().parse_args()
    device = select_device(args.device)
    keep_freed_memory(device)  # as train.py and val.py do
    with tempfile.TemporaryDirectory(prefix="device-") as folder:
        checks = list(run_checks(args, device, Path(folder)))
    passed = all(check.verdict != FAILED for check in checks)
    seconds = round(time.monotonic() - began, 1)
    rows = align_columns([["", "", "value", "limit"], *(check.cells for check in checks)])
    lines = zip(rows.splitlines(), ["", *(check.note for check in checks)], strict=True)
    log.info("\n%s", "\n".join("  ".join(line).rstrip() for line in lines))
    log.info("%s on %s, in %g s", "All checks held" if passed else FAILED, device, seconds)
    if args.json:
        content = {
            "program": "python benchmarks/device.py",
            "machine": describe_machine(),
            "device": str(device),
            "seconds": seconds,
            "passed": passed,
            "checks": [check.to_json() for check in checks],
        }
        atomic_write_text(args.json, json.dumps(content, indent=2, allow_nan=False) + "\n")
    if not passed:
        raise SystemExit(EXIT_FAILED)


def run_checks(args: argparse.Namespace, device: torch.device, folder: Path) -> Iterator[Check]:
    """Run all parts and yield their checks; an error of torch fails its part only.

    Args:
        args: options of this program.
        device: the device to check.
        folder: an empty folder for the runs.

    Raises:
        UserError: an option, a model or the data set is invalid.
    """
    from benchmarks.device_parity import check_parity
    from benchmarks.device_runs import check_failure, check_resume
    from benchmarks.device_speed import measure_model

    effort = ON_GPU if device.type == "cuda" else ON_CPU
    models = args.cfg or effort.models
    options = ["--data", args.data, "--weights", "", "--noplots", "--noautoanchor"]
    options += [] if args.workers is None else ["--workers", str(args.workers)]
    small = [*options, "--project", str(folder), "--imgsz", str(min(args.imgsz, RUN_SIZE))]
    small += ["--cfg", models[0], "--batch-size", str(args.batch_size or RUN_BATCH)]
    parts: dict[str, Callable[[], list[Check]]] = {
        "parity": partial(check_parity, models[0], min(args.imgsz, PARITY_SIZE), device),
        "resume after SIGKILL": partial(check_resume, small, folder, device),
        "error in one of two processes": partial(check_failure, small, folder, device),
    }
    size = args.batch_size or effort.batch_size
    for model in models:
        words = [*options, "--cfg", model, "--imgsz", str(args.imgsz), "--device", str(device)]
        parts[Path(model).stem] = partial(
            measure_model, words, size, device, effort.batches, effort.seconds
        )
    for title, part in parts.items():
        log.info("%s ...", title)
        try:
            yield from (check._replace(name=f"{title}: {check.name}") for check in part())
        except RuntimeError as error:
            traceback.print_exception(error)
            yield Check(title, float("nan"), 0, str(error).splitlines()[0])


if __name__ == "__main__":
    run_script(main)
