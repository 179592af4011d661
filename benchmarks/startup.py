"""Measures how long commands take, to start or to finish, and what they import. POSIX only.

Usage:
    python benchmarks/startup.py
    python benchmarks/startup.py "val.py --weights yolov5n.pt --data coco128.yaml" --rounds 3
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from string import ascii_uppercase
from types import MappingProxyType

if __name__ == "__main__":
    # A script starts with its own folder on sys.path; imports need the repository root instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import add_round_options, align_columns, measure_and_report
from benchmarks.run_files import MISSING
from benchmarks.timing import MEGABYTE, Measurements
from benchmarks.watched_run import FAILED, ROOT, TAIL_BYTES, Observation, Phase, WatchedRun
from utils.errors import UserError
from utils.options.script import OptionParser, run_script

log = logging.getLogger("yolo")

DEFAULT_COMMANDS = ("train.py --help", "val.py --help", "detect.py --help")
DEFAULT_TRAINING = (
    "--data coco128.yaml --weights '' --cfg yolov5n.yaml --imgsz 640 --batch-size 16 --workers 2"
)
OUTPUT_FILE = "output.txt"
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
IMPORT_LINE = re.compile(r"import time: +(?P<own>\d+) \| +\d+ \| +(?P<module>\S+)")
"""A line of `python -X importtime`: microseconds of the module itself, and with its imports."""
MICROSECONDS_PER_MS = 1000
MAX_PACKAGES = 12
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # wait4: bytes on macOS, KiB on Linux


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this program's options."""
    parser = OptionParser(
        prog="python benchmarks/startup.py",
        description="Run commands in turns; report wall time, CPU time, peak memory and import "
        "times by package.",
    )
    add = parser.add_argument
    add(
        "commands",
        nargs="*",
        default=DEFAULT_COMMANDS,
        help=f"scripts with options (default: {', '.join(DEFAULT_COMMANDS)})",
    )
    add(
        "--training",
        default=DEFAULT_TRAINING,
        metavar="OPTIONS",
        help="also run train.py with these options up to its first step; empty to skip "
        f"(default: {DEFAULT_TRAINING})",
    )
    add("--no-imports", action="store_true", help="skip the extra run that measures imports")
    add_round_options(parser, rounds=3)
    return parser


def main() -> None:
    """Measure the commands in turns, then their imports."""
    parser = build_parser()
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        folder = Path(name)
        runs = {
            f"python {command}": partial(run_process, shlex.split(command), folder)
            for command in args.commands
        }
        if args.training:
            to_first_step = partial(run_until_first_step, shlex.split(args.training), folder)
            runs[f"python train.py {args.training}, to its first step"] = to_first_step
        descriptions = dict(zip(ascii_uppercase, runs, strict=False))
        measures = dict(zip(descriptions, runs.values(), strict=True))
        imports = {}
        if not args.no_imports:
            imports = {letter: measure_imports(run, folder) for letter, run in measures.items()}
        measure_and_report(parser, args, measures, descriptions, {"imports, ms": imports})
    if imports:
        log.info("%s", import_table(imports))


def run_process(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] = NO_VARIABLES
) -> Measurements:
    """Run a command to its end; return its wall time, CPU time and peak memory.

    Args:
        command: a script of this repository and its options.
        folder: receives the output, in the file `OUTPUT_FILE`.
        environment: variables to add to the environment of this process.

    Raises:
        UserError: the command failed.
    """
    began = time.perf_counter()
    with (folder / OUTPUT_FILE).open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)  # the memory of this process alone
    passed = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        output_tail = (folder / OUTPUT_FILE).read_text(errors="replace")[-TAIL_BYTES:]
        raise UserError(f"{shlex.join(command)} {FAILED}\n{output_tail}")
    return {
        "wall, s": passed,
        "processor, s": usage.ru_utime + usage.ru_stime,
        "peak memory of a process, MB": usage.ru_maxrss * RSS_UNIT / MEGABYTE,
    }


def run_until_first_step(
    options: Sequence[str], folder: Path, environment: Mapping[str, str] = NO_VARIABLES
) -> Measurements:
    """Run train.py until it has trained its first batch, then kill it; return the times.

    Args:
        options: options of train.py.
        folder: receives the output, in the file `OUTPUT_FILE`, and the run's files.
        environment: variables to add to the environment of this process.

    Raises:
        UserError: train.py ended before its first batch.
    """
    destination = ["--project", str(folder), "--name", "run", "--exist-ok"]
    run = WatchedRun(
        [*options, *destination], folder / "run", folder / OUTPUT_FILE, environment, MISSING
    )
    try:
        trained = run.wait_until(has_trained_a_batch)
    finally:  # also after an error, so that no process is left running
        if run.exit_code is None:
            run.kill()
    if not trained:
        raise UserError(f"train.py {shlex.join(options)} {FAILED}\n{run.output_tail}")
    (began, _), *seen = run.observations
    return {
        "to its first epoch, s": next(t for t, s in seen if s.phase is Phase.TRAINING) - began,
        "to its first step, s": next(t for t, s in seen if has_trained_a_batch(s)) - began,
    }


def has_trained_a_batch(observation: Observation) -> bool:
    """Return whether a run that started from scratch has trained a batch."""
    return observation.batches > 0


def measure_imports(run: Callable[..., Measurements], folder: Path) -> Measurements:
    """Return the import time of each top-level package in a run, ms, longest first.

    Args:
        run: `run_process` or `run_until_first_step` with a command and a folder.
        folder: that folder, with the output of the run.
    """
    run(environment={"PYTHONPROFILEIMPORTTIME": "1"})
    return parse_import_times((folder / OUTPUT_FILE).read_text(errors="replace"))


def parse_import_times(text: str) -> Measurements:
    """Return ms by top-level package from the output of `python -X importtime`, longest first."""
    microseconds: Counter[str] = Counter()
    for line in IMPORT_LINE.finditer(text):
        microseconds[line["module"].partition(".")[0]] += int(line["own"])
    return {name: count / MICROSECONDS_PER_MS for name, count in microseconds.most_common()}


def import_table(imports: Mapping[str, Measurements]) -> str:
    """Return a table of the slowest packages: milliseconds by command.

    Args:
        imports: milliseconds by package, for each command.
    """
    longest: Counter[str] = Counter()
    for result in imports.values():
        longest.update({package: round(ms) for package, ms in result.items()})
    rows = [["imports, ms", *imports]]
    for package, _ in longest.most_common(MAX_PACKAGES):
        rows.append([package, *(_cell(result.get(package)) for result in imports.values())])
    rows.append(["all packages", *(_cell(sum(f.values())) for f in imports.values())])
    return align_columns(rows)


def _cell(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.1f}"


if __name__ == "__main__":
    run_script(main)
