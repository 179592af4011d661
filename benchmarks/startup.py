"""How long commands take to start, or from beginning to end, and what they import. POSIX only.

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
    # Python looks for modules beside this file; they are imported from the root, as everywhere.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import add_round_options, aligned, measure_and_tell
from benchmarks.run_files import ABSENT
from benchmarks.timing import MEGABYTE, Results
from benchmarks.watched_run import ROOT, TAIL, Phase, Sight, WatchedRun
from utils.errors import UserError
from utils.options.script import OptionParser, run_script

log = logging.getLogger("yolo")

HELP = ("train.py --help", "val.py --help", "detect.py --help")
TRAINING = (
    "--data coco128.yaml --weights '' --cfg yolov5n.yaml --imgsz 640 --batch-size 16 --workers 2"
)
OUTPUT = "output.txt"
NOTHING_ADDED: Mapping[str, str] = MappingProxyType({})
IMPORT = re.compile(r"import time: +(?P<own>\d+) \| +\d+ \| +(?P<module>\S+)")
"""A line of `python -X importtime`: microseconds without and with what the module imports."""
MICROSECONDS_PER_MS = 1000
PACKAGES_TOLD = 12
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # wait4: bytes on macOS, KiB on Linux


def build_parser() -> argparse.ArgumentParser:
    """The options of this program."""
    parser = OptionParser(
        prog="python benchmarks/startup.py",
        description="Run commands by turns, and tell their seconds, processor time and peak memory "
        "and the packages that they import.",
    )
    add = parser.add_argument
    add("commands", nargs="*", default=HELP, help=f"default: {', '.join(HELP)}")
    add(
        "--training",
        default=TRAINING,
        metavar="OPTIONS",
        help=f"up to whose first step train.py is run too; empty for not (default: {TRAINING})",
    )
    add("--no-imports", action="store_true", help="save the run that tells what is imported")
    add_round_options(parser, rounds=3)
    return parser


def main() -> None:
    """Measure the commands by turns, and what they import."""
    parser = build_parser()
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        folder = Path(name)
        runs = {
            f"python {command}": partial(whole_process, shlex.split(command), folder)
            for command in args.commands
        }
        if args.training:
            to_first_step = partial(first_step, shlex.split(args.training), folder)
            runs[f"python train.py {args.training}, to its first step"] = to_first_step
        meanings = dict(zip(ascii_uppercase, runs, strict=False))
        measures = dict(zip(meanings, runs.values(), strict=True))
        imports = {}
        if not args.no_imports:
            imports = {letter: imported(run, folder) for letter, run in measures.items()}
        measure_and_tell(parser, args, measures, meanings, {"imports, ms": imports})
    if imports:
        log.info("%s", import_table(imports))


def whole_process(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] = NOTHING_ADDED
) -> Results:
    """Run a command to its end.

    Args:
        command: a script of this repository and its options.
        folder: takes what it prints, in the file `OUTPUT`.
        environment: added to that of this process.

    Raises:
        UserError: it failed.
    """
    began = time.perf_counter()
    with (folder / OUTPUT).open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)  # tells this process's memory alone
    passed = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        last_words = (folder / OUTPUT).read_text(errors="replace")[-TAIL:]
        raise UserError(f"{shlex.join(command)} failed: {last_words}")
    return {
        "wall, s": passed,
        "processor, s": usage.ru_utime + usage.ru_stime,
        "peak memory of a process, MB": usage.ru_maxrss * RSS_UNIT / MEGABYTE,
    }


def first_step(
    options: Sequence[str], folder: Path, environment: Mapping[str, str] = NOTHING_ADDED
) -> Results:
    """Run train.py until its first batch is trained, then kill it.

    Args:
        options: of train.py.
        folder: takes what it prints, in the file `OUTPUT`, and the run.
        environment: added to that of this process.

    Raises:
        UserError: it ended before.
    """
    place = ["--project", str(folder), "--name", "run", "--exist-ok"]
    run = WatchedRun([*options, *place], folder / "run", folder / OUTPUT, environment, ABSENT)
    try:
        trained = run.reaches(has_trained_a_batch)
    finally:  # nobody else would end it
        if run.exit_code is None:
            run.kill()
    if not trained:
        raise UserError(f"train.py {shlex.join(options)} failed: {run.last_words}")
    (began, _), *seen = run.seen
    return {
        "to its first epoch, s": next(t for t, s in seen if s.phase is Phase.TRAINING) - began,
        "to its first step, s": next(t for t, s in seen if has_trained_a_batch(s)) - began,
    }


def has_trained_a_batch(sight: Sight) -> bool:
    """Whether a run that began anew has."""
    return sight.batches > 0


def imported(run: Callable[..., Results], folder: Path) -> Results:
    """Milliseconds that the import of each top-level package took in a run, longest first.

    Args:
        run: `whole_process` or `first_step` with a command and a folder.
        folder: the same.
    """
    run(environment={"PYTHONPROFILEIMPORTTIME": "1"})
    return packages((folder / OUTPUT).read_text(errors="replace"))


def packages(text: str) -> Results:
    """Milliseconds by top-level package in what `python -X importtime` printed, longest first."""
    microseconds: Counter[str] = Counter()
    for line in IMPORT.finditer(text):
        microseconds[line["module"].partition(".")[0]] += int(line["own"])
    return {name: count / MICROSECONDS_PER_MS for name, count in microseconds.most_common()}


def import_table(imports: Mapping[str, Results]) -> str:
    """The packages that take longest, milliseconds by command.

    Args:
        imports: by command, milliseconds by package.
    """
    longest: Counter[str] = Counter()
    for result in imports.values():
        longest.update({package: round(ms) for package, ms in result.items()})
    rows = [["imports, ms", *imports]]
    for package, _ in longest.most_common(PACKAGES_TOLD):
        rows.append([package, *(_cell(result.get(package)) for result in imports.values())])
    rows.append(["all packages", *(_cell(sum(f.values())) for f in imports.values())])
    return aligned(rows)


def _cell(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.1f}"


if __name__ == "__main__":
    run_script(main)
