"""Show the content of a checkpoint, ours or YOLOv5's, without executing anything in it.

Usage: python -m utils.tools.inspect runs/train/exp [--verify] [--json]
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from utils.checkpoint.format import newest_checkpoint
from utils.errors import UserError
from utils.options.arguments import add_options, parse_options
from utils.options.option import REQUIRED, option
from utils.options.script import OptionParser, printable_line, run_script

# Slow imports are inside the functions that need them, so that --help is fast.
if TYPE_CHECKING:
    from utils.tools.inspect.verification import Verdict

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
    path = find_checkpoint(options.file)
    verdict = report(path, as_json=options.json, verify=options.verify)
    if verdict is not None and not verdict.fine:
        raise SystemExit(DAMAGE_EXIT_CODE)


def find_checkpoint(target: Path) -> Path:
    """Return the target if it is not a folder, else its last.pt or, if missing, its last_prev.pt.

    Raises:
        UserError: the folder has neither.
    """
    if not target.is_dir():
        return target
    found = newest_checkpoint(target)
    if found is None:
        raise UserError(
            f"{target / 'weights/last.pt'} does not exist; give a .pt file or a run folder."
        )
    return found


def report(path: Path, *, as_json: bool, verify: bool) -> Verdict | None:
    """Print the content of a file; if a checksum is wrong, print only the damage.

    Args:
        path: the file.
        as_json: print JSON instead of text.
        verify: also verify checksums and tensors.

    Returns:
        Result of the verification; None without `verify`.

    Raises:
        UserError: the file cannot be read. For a last.pt, the message also says whether the
            last_prev.pt is intact.
    """
    from utils.checkpoint.zip_members import verify_checksums
    from utils.tools.inspect.facts import format_lines, to_json
    from utils.tools.inspect.inspection import inspect_checkpoint
    from utils.tools.inspect.verification import describe_previous, make_verdict

    try:
        checksums = verify_checksums(path) if verify else None
        contents = None if checksums and checksums.wrong else inspect_checkpoint(path)
    except UserError as error:
        raise UserError(f"{error}{describe_previous(path)}") from error
    verdict = (
        make_verdict(path, checksums, contents.tensors if contents else None) if checksums else None
    )
    output: dict[str, object] = {"file": str(path), "bytes": path.stat().st_size}
    if as_json:
        output |= to_json(contents.facts) if contents else {}
        output |= {"verified": verdict.to_json()} if verdict else {}
        sys.stdout.write(json.dumps(output, indent=2, allow_nan=False) + "\n")
        return verdict
    log.info("%s, %s bytes", printable_line(str(path)), f"{output['bytes']:,}")
    for line in format_lines(contents.facts) if contents else ():
        log.info("%s", line)
    if verdict:
        log.info("%s", verdict.message)
    return verdict


if __name__ == "__main__":
    run_script(main)
