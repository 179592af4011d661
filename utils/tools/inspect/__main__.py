"""Tell what a checkpoint holds, ours or YOLOv5's, without executing anything in it.

Usage: python -m utils.tools.inspect runs/train/exp [--verify] [--json]
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.checkpoint.format import newest_checkpoint
from utils.errors import UserError
from utils.options.arguments import add_options, parse_options
from utils.options.option import REQUIRED, option
from utils.options.script import OptionParser, run_script

# What is heavy is imported where it is used, so that --help answers at once.
if TYPE_CHECKING:
    from utils.tools.inspect.verification import Verdict

log = logging.getLogger("yolo")

FOUND_WRONG = 1  # exit code; a file that cannot be read at all is a usage error, 2


@dataclass(frozen=True)
class InspectOptions:
    """Which file to look into, and how."""

    file: Path = option(
        REQUIRED, "a .pt file, or a run's folder: its last.pt", metavar="FILE", positional=True
    )
    json: bool = option(False, "as JSON, and nothing else")
    verify: bool = option(
        False, "check every checksum, and that no tensor holds an infinity or NaN"
    )


def build_parser() -> argparse.ArgumentParser:
    """The options of this program."""
    parser = OptionParser(
        prog="python -m utils.tools.inspect",
        description="Tell what a checkpoint holds, ours or YOLOv5's, without executing anything.",
        epilog="exit code: 0 if all is well, 1 if --verify finds damage, 2 if the file is refused",
    )
    add_options(parser, InspectOptions)
    return parser


def main() -> None:
    """Read the command line, tell what is in the file, and end with the exit code that fits."""
    options = parse_options(build_parser(), InspectOptions)
    path = find_checkpoint(options.file)
    verdict = report(path, as_json=options.json, verify=options.verify)
    if verdict is not None and not verdict.fine:
        raise SystemExit(FOUND_WRONG)


def find_checkpoint(target: Path) -> Path:
    """The file that is meant: itself, or the last.pt of a run's folder, else its last_prev.pt.

    Raises:
        UserError: the folder holds none.
    """
    if not target.is_dir():
        return target
    found = newest_checkpoint(target)
    if found is None:
        raise UserError(f"the folder {target} holds no weights/last.pt; name a .pt file.")
    return found


def report(path: Path, *, as_json: bool, verify: bool) -> Verdict | None:
    """Tell what is in a file; of one with a wrong checksum only that, for nothing else is sure.

    Returns:
        What was found wrong; None if nothing was looked for.

    Raises:
        UserError: the file cannot be read, or is refused; if it is a last.pt the sentence says
            whether the file before it is whole.
    """
    from utils.checkpoint.zip_members import check_sums
    from utils.tools.inspect.facts import lines, printable, to_json
    from utils.tools.inspect.inspection import inspect_checkpoint
    from utils.tools.inspect.verification import about_previous, judge

    try:
        sums = check_sums(path) if verify else None
        contents = None if sums and sums.wrong else inspect_checkpoint(path)
    except UserError as error:
        raise UserError(f"{error}{about_previous(path)}") from error
    verdict = judge(path, sums, contents.tensors if contents else None) if sums else None
    told: dict[str, Any] = {"file": str(path), "bytes": path.stat().st_size}
    if as_json:
        told |= to_json(contents.facts) if contents else {}
        told |= {"verified": verdict.to_json()} if verdict else {}
        sys.stdout.write(json.dumps(told, indent=2, allow_nan=False) + "\n")
        return verdict
    log.info("%s, %s bytes", printable(str(path)), f"{told['bytes']:,}")
    for line in lines(contents.facts) if contents else ():
        log.info("%s", line)
    if verdict:
        log.info("%s", verdict.sentence)
    return verdict


if __name__ == "__main__":
    run_script(main)
