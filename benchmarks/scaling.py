"""Measures how cost grows with image size, batch size, model and data-set size. POSIX only.

Usage: python benchmarks/scaling.py [--only data] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    # A script starts with its own folder on sys.path; imports need the repository root instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import MAX_IDLE_LOAD, align_columns, describe_machine, load_per_core
from benchmarks.scaling_points import (
    MODEL_BATCH,
    QUESTIONS,
    PointsFile,
    missing_commands,
    requested_points,
)
from benchmarks.startup import run_process
from utils.files.atomic_write import atomic_write
from utils.files.json_file import read_json
from utils.options.script import OptionParser, run_script

# Slow modules are imported inside the functions that use them: --help must be fast.
if TYPE_CHECKING:
    from benchmarks.scaling_panels import Panel

log = logging.getLogger("yolo")

NO_GPU = "none"  # as in `describe_machine`
RESULTS_FILE, PLOT_FILE = "scaling.json", "scaling.png"
DEFAULT_OUT = Path("runs", "scaling")
SIZES = (256, 384, 512, 640, 768)
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
MODELS = ("yolov5n.yaml", "yolov5s.yaml", "yolov5m.yaml", "yolov5l.yaml")
DATA_SIZES = (128, 1024, 8192, 65536)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this program's options."""
    parser = OptionParser(
        prog="python benchmarks/scaling.py",
        description="Run benchmarks/step.py or benchmarks/dataset.py in a process for each point, "
        f"and write {RESULTS_FILE} and {PLOT_FILE}. Points in {RESULTS_FILE} are not measured "
        "again: run the same command to continue after an interruption.",
    )
    add = parser.add_argument
    add(
        "--only",
        choices=QUESTIONS,
        nargs="+",
        default=QUESTIONS,
        help="measure these points only (default: all)",
    )
    _add_points(parser, "--sizes", SIZES, "image sizes in pixels, with batches of --batch-size")
    _add_points(parser, "--batch-sizes", BATCH_SIZES, "batch sizes, with images of --imgsz")
    _add_points(
        parser,
        "--models",
        MODELS,
        f"model files, with batches of {MODEL_BATCH} and images of --imgsz",
    )
    _add_points(parser, "--data-sizes", DATA_SIZES, "images per data set")
    add(
        "--imgsz",
        type=int,
        default=640,
        help="image size in pixels, for all but --sizes (default: 640)",
    )
    add("--batch-size", type=int, default=8, help="batch size for --sizes (default: 8)")
    add(
        "--cfg",
        default="yolov5n.yaml",
        help="model file for --sizes and --batch-sizes (default: yolov5n.yaml)",
    )
    add("--data", default="coco128.yaml", help="data set to link to (default: coco128.yaml)")
    add("--rounds", type=int, default=3, help="rounds per point, after a warm-up (default: 3)")
    add(
        "--out",
        type=Path,
        default=DEFAULT_OUT,
        help=f"folder for both files (default: {DEFAULT_OUT})",
    )
    return parser


def _add_points(
    parser: argparse.ArgumentParser, name: str, default: Sequence[int | str], meaning: str
) -> None:
    """Add an option that takes a list of values of the same type as the default."""
    text = f"{meaning} (default: {' '.join(map(str, default))})"
    kind = type(default[0])
    parser.add_argument(name, nargs="+", type=kind, default=default, metavar="N", help=text)


def main() -> None:
    """Measure the missing points, then report and plot all points of the command line.

    Raises:
        UserError: an option is invalid, a benchmark fails, or the results file cannot be used.
    """
    parser = build_parser()
    args = parser.parse_args()
    points = requested_points(args)
    load = round(load_per_core(), 2)
    machine = describe_machine()
    file = PointsFile(args.out / RESULTS_FILE, {"program": parser.prog, "machine": machine})
    commands = missing_commands([p for p in points if p.question in args.only], file.measured)
    if commands and load > MAX_IDLE_LOAD:
        log.warning("The machine is busy: expect results that are too slow.")
    for number, command in enumerate(commands, 1):
        log.info("%d of %d: %s", number, len(commands), command)
        result = measure(command, args.rounds)
        file.add(command, {"rounds": args.rounds, "load per core before": load, "figures": result})

    from benchmarks.scaling_panels import build_panels
    from benchmarks.scaling_plot import save_scaling_plot

    panels = build_panels(points, file.measured, args)
    log.info("%s", table(panels))
    plot = args.out / PLOT_FILE
    atomic_write(plot, lambda part: save_scaling_plot(panels, describe_setup(machine), part))
    log.info("Wrote %s and %s.", args.out / RESULTS_FILE, plot)


def measure(command: str, rounds: int) -> dict[str, Any]:
    """Run a benchmark of one variant and return the results from its JSON file.

    Raises:
        UserError: the benchmark failed.
    """
    with tempfile.TemporaryDirectory(prefix="scaling-") as name:
        file = Path(name) / "figures.json"
        options = ["--rounds", str(rounds), "--json", str(file)]
        run_process([*shlex.split(command), *options], file.parent)
        (result,) = read_json(file)["figures"].values()
    metrics: dict[str, Any] = result
    return metrics


def describe_setup(machine: Mapping[str, str | int]) -> str:
    """Return the machine and the kind of memory that was measured, for the plot."""
    hardware, memory = f"{machine['cores']} cores, {machine['instructions']}", "of the process"
    if machine["GPU"] != NO_GPU:
        hardware, memory = str(machine["GPU"]), "of a training step on the GPU"
    return f"memory {memory} · {hardware}, torch {machine['torch']}"


def table(panels: Sequence[Panel]) -> str:
    """Return a table with a line for each point and curve."""
    rows = [["", "", "ms per image: median (min - max)", "peak memory, MB"]]
    for panel in panels:
        for name, curve in panel.times.items():
            for tick, time, memory in zip(panel.ticks, curve, panel.memory, strict=True):
                cells = "{:.4g} ({:.4g} - {:.4g})".format(*time), f"{memory.median:,.0f}"
                rows.append([f"{panel.question} {name}", " ".join(tick.split()), *cells])
    return align_columns(rows)


if __name__ == "__main__":
    run_script(main)
