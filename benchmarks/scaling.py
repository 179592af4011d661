"""How cost grows with the size of images, batch, model and data set: figures and a picture. POSIX.

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
    # Python looks for modules beside this file; they are imported from the root, as everywhere.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import BUSY, aligned, describe_machine, load_per_core
from benchmarks.scaling_points import MODEL_BATCH, QUESTIONS, PointsFile, missing, wanted_points
from benchmarks.startup import whole_process
from utils.files.atomic_write import atomic_write
from utils.files.json_file import read_json
from utils.options.script import OptionParser, run_script

# What is heavy is imported where it is used, so that --help answers at once.
if TYPE_CHECKING:
    from benchmarks.scaling_panels import Panel

log = logging.getLogger("yolo")

NO_GPU = "none"  # of `describe_machine`
FIGURES, PICTURE = "scaling.json", "scaling.png"
OUT = Path("runs", "scaling")
SIZES = (256, 384, 512, 640, 768)
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
MODELS = ("yolov5n.yaml", "yolov5s.yaml", "yolov5m.yaml", "yolov5l.yaml")
DATA_SIZES = (128, 1024, 8192, 65536)


def build_parser() -> argparse.ArgumentParser:
    """The options of this program."""
    parser = OptionParser(
        prog="python benchmarks/scaling.py",
        description="Run benchmarks/step.py and benchmarks/dataset.py in a process for each point, "
        f"and write {FIGURES} and {PICTURE}. What {FIGURES} holds already is not measured again, "
        "so this can be interrupted and goes on.",
    )
    add = parser.add_argument
    add("--only", choices=QUESTIONS, nargs="+", default=QUESTIONS, help="measure no other points")
    _add_points(parser, "--sizes", SIZES, "px of images, --batch-size of them")
    _add_points(parser, "--batch-sizes", BATCH_SIZES, "images of --imgsz")
    _add_points(parser, "--models", MODELS, f"files, with {MODEL_BATCH} images of --imgsz")
    _add_points(parser, "--data-sizes", DATA_SIZES, "images in data sets")
    add("--imgsz", type=int, default=640, help="px where sizes are not asked for (default: 640)")
    add("--batch-size", type=int, default=8, help="images where sizes are (default: 8)")
    add("--cfg", default="yolov5n.yaml", help="model for sizes and batches (default: yolov5n.yaml)")
    add("--data", default="coco128.yaml", help="to be linked (default: coco128.yaml)")
    add("--rounds", type=int, default=3, help="of a point, after a warm-up (default: 3)")
    add("--out", type=Path, default=OUT, help=f"folder of both files (default: {OUT})")
    return parser


def _add_points(
    parser: argparse.ArgumentParser, name: str, default: Sequence[int | str], meaning: str
) -> None:
    """An option that lists points, of the same type as the default."""
    text = f"{meaning} (default: {' '.join(map(str, default))})"
    kind = type(default[0])
    parser.add_argument(name, nargs="+", type=kind, default=default, metavar="N", help=text)


def main() -> None:
    """Measure what is not measured yet, then tell and draw all that the command line names.

    Raises:
        UserError: an option is refused, a benchmark fails, or the file is not of this program.
    """
    parser = build_parser()
    args = parser.parse_args()
    points = wanted_points(args)
    load = round(load_per_core(), 2)
    machine = describe_machine()
    file = PointsFile(args.out / FIGURES, {"program": parser.prog, "machine": machine})
    commands = missing([p for p in points if p.question in args.only], file.measured)
    if commands and load > BUSY:
        log.warning("The machine is busy: these figures will be too slow.")
    for number, command in enumerate(commands, 1):
        log.info("%d of %d: %s", number, len(commands), command)
        result = measure(command, args.rounds)
        file.add(command, {"rounds": args.rounds, "load per core before": load, "figures": result})

    from benchmarks.scaling_panels import panels_of
    from benchmarks.scaling_picture import save_scaling

    panels = panels_of(points, file.measured, args)
    log.info("%s", table(panels))
    picture = args.out / PICTURE
    atomic_write(picture, lambda part: save_scaling(panels, told(machine), part))
    log.info("Written: %s and %s", args.out / FIGURES, picture)


def measure(command: str, rounds: int) -> dict[str, Any]:
    """Run a benchmark of one variant, and return the figures in its JSON file.

    Raises:
        UserError: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="scaling-") as name:
        file = Path(name) / "figures.json"
        more = ["--rounds", str(rounds), "--json", str(file)]
        whole_process([*shlex.split(command), *more], file.parent)
        (result,) = read_json(file)["figures"].values()
    found: dict[str, Any] = result
    return found


def told(machine: Mapping[str, str | int]) -> str:
    """Where it was measured, and whose memory it is."""
    place, memory = f"{machine['cores']} cores, {machine['instructions']}", "of the process"
    if machine["GPU"] != NO_GPU:
        place, memory = str(machine["GPU"]), "of a training step on the GPU"
    return f"memory {memory} · {place}, torch {machine['torch']}"


def table(panels: Sequence[Panel]) -> str:
    """A line for each point and what takes time in it."""
    rows = [["", "", "ms per image: median (least - most)", "peak memory, MB"]]
    for panel in panels:
        for name, curve in panel.times.items():
            for tick, time, memory in zip(panel.ticks, curve, panel.memory, strict=True):
                cells = "{:.4g} ({:.4g} - {:.4g})".format(*time), f"{memory.median:,.0f}"
                rows.append([f"{panel.question} {name}", " ".join(tick.split()), *cells])
    return aligned(rows)


if __name__ == "__main__":
    run_script(main)
