"""Show the content of a checkpoint, ours or YOLOv5's, without executing anything in it.

Usage: python -m utils.tools.inspect runs/train/exp [--verify] [--json]
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from utils.checkpoint.format import newest_checkpoint
from utils.options.arguments import add_options, parse_options
from utils.options.option import REQUIRED, option
from utils.options.script import OptionParser, run_script

log = logging.getLogger("yolo")

DAMAGE_EXIT_CODE = 1  # a file that cannot be read is a usage error, exit code 2


@dataclass(frozen=True)
class InspectOptions:
    """Command-line options."""

    file: Path = option(
        REQUIRED,
        "checkpoint file, or the folder of a run (its last.pt is used)",
        metavar="FILE",
        positional=True,
    )
    json: bool = option(False, "print JSON instead of text")
    verify: bool = option(
        False, "also verify every checksum, and that every tensor is finite (no infinity or NaN)"
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    parser = OptionParser(
        prog="python -m utils.tools.inspect",
        description="Show the content of a checkpoint, ours or YOLOv5's, without executing it.",
        epilog="exit codes: 0 success, 1 --verify found damage, 2 the file cannot be read",
    )
    add_options(parser, InspectOptions)
    return parser


def main() -> None:
    """Parse the command line, print the report, and exit with code 1 if the file is damaged."""
    options = parse_options(build_parser(), InspectOptions)
    path = newest_checkpoint(options.file) or options.file

    # Slow imports are here, so that --help is fast.
    from utils.tools.inspect.inspection import inspect_file
    from utils.tools.inspect.output import json_text, text_lines

    facts = inspect_file(path, verify=options.verify)
    if options.json:
        sys.stdout.write(f"{json_text(facts)}\n")
    else:
        for line in text_lines(facts):
            log.info("%s", line)
    if options.verify and not facts["verified"]["fine"]:
        raise SystemExit(DAMAGE_EXIT_CODE)


if __name__ == "__main__":
    run_script(main)
