"""What the benchmarks have in common: options, variants by turns, a table and a JSON file."""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from string import ascii_uppercase
from types import MappingProxyType

from benchmarks.timing import Measure, Spread, by_turns
from utils.errors import UserError
from utils.files.atomic_write import atomic_write_text

log = logging.getLogger("yolo")

BUSY = 0.3
"""Processes that are already running, per core, from which on figures say little."""

NOTHING_MORE: Mapping[str, object] = MappingProxyType({})

Results = dict[str, dict[str, Spread]]
"""By variant and figure."""


def add_common_options(parser: argparse.ArgumentParser, rounds: int, against: str) -> None:
    """Add what every benchmark that compares variants can be told.

    Args:
        parser: of the benchmark.
        rounds: default number of measurements.
        against: what is measured by turns with the command line as it is, unless asked otherwise.
    """
    parser.add_argument(
        "--against",
        action="append",
        metavar="OPTIONS",
        help="measure by turns with a variant, the same command line with these options added, as "
        f"in --against='{against}', the default; may be repeated, and empty for none",
    )
    parser.set_defaults(default_against=against)
    add_round_options(parser, rounds)


def add_round_options(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Add how often to measure, and where to write the result.

    Args:
        parser: of the benchmark.
        rounds: default number of measurements.
    """
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"of each variant (default: {rounds})"
    )
    parser.add_argument(
        "--warm-up", type=int, default=1, help="rounds that do not count (default: 1)"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures here too")


def compare(
    parser: argparse.ArgumentParser, prepare: Callable[[argparse.Namespace], Measure]
) -> None:
    """Read the command line, measure its variants by turns, tell the result.

    Args:
        parser: of the benchmark, with the common options.
        prepare: gets everything ready for one variant.

    Raises:
        UserError: there is nothing to measure.
    """
    own = sys.argv[1:]
    args = parser.parse_args(own)
    wanted = [args.default_against] if args.against is None else args.against
    meanings = {"A": shlex.join(own) or "the default options"}
    measures = {"A": prepare(args)}
    others = [more for more in wanted if more]
    for name, more in zip(ascii_uppercase[1:], others, strict=False):
        meanings[name] = f"A {more}"
        measures[name] = prepare(parser.parse_args(own + shlex.split(more)))
    measure_and_tell(parser, args, measures, meanings)


def measure_and_tell(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    measures: Mapping[str, Measure],
    meanings: Mapping[str, str],
    more: Mapping[str, object] = NOTHING_MORE,
) -> None:
    """Measure by turns, log the table, write the JSON file.

    Args:
        parser: of the benchmark, for its name.
        args: the common options.
        measures: by variant.
        meanings: of the variants' names, for those who have not seen the command line.
        more: plain data for the JSON file.

    Raises:
        UserError: there is nothing to measure, or the file cannot be written.
    """
    if args.rounds < 1 or args.warm_up < 0:
        raise UserError("--rounds must be 1 or more, and --warm-up not negative.")
    load = load_per_core()
    results = by_turns(measures, args.rounds, args.warm_up)
    for name, meaning in meanings.items():
        log.info("%s: %s", name, meaning)
    log.info("%s", table(results))
    if load > BUSY:
        log.warning("The machine was busy before this began: these figures are too slow.")
    if args.json:
        content = {
            "program": parser.prog,
            "machine": describe_machine(),
            "load per core before": round(load, 2),
            "rounds": args.rounds,
            "variants": dict(meanings),
            "figures": {
                name: {figure: found._asdict() for figure, found in result.items()}
                for name, result in results.items()
            },
            "ratios": {name: ratios(results, name) for name in list(results)[1:]},
            **more,
        }
        text = json.dumps(content, indent=2) + "\n"
        atomic_write_text(args.json, text)


def ratios(results: Results, variant: str) -> dict[str, float]:
    """Medians of a variant over those of the first one, where both have the figure."""
    first = next(iter(results.values()))
    return {
        figure: found.median / first[figure].median
        for figure, found in results[variant].items()
        if figure in first and first[figure].median
    }


def table(results: Results) -> str:
    """A line for each figure: per variant the median, least and greatest, and ratios to the first.

    Args:
        results: of at least one variant.
    """
    first, *others = results
    header = ["", f"{first}: median (least - most)"]
    for name in others:
        header += [f"{name}: median (least - most)", f"{name}/{first}"]
    result = dict.fromkeys(itertools.chain.from_iterable(results.values()))
    return aligned([header, *([figure, *_cells(results, figure)] for figure in result)])


def aligned(rows: list[list[str]]) -> str:
    """Rows of equally many cells as lines, the first column to the left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _cells(results: Results, figure: str) -> Iterator[str]:
    for number, (name, result) in enumerate(results.items()):
        found = result.get(figure)
        yield "-" if found is None else "{:.4g} ({:.4g} - {:.4g})".format(*found)
        if number:
            ratio = ratios(results, name).get(figure)
            yield "-" if ratio is None else f"{ratio:.3g}"


def load_per_core() -> float:
    """Processes that ran during the last minute, per core; 0 where the system does not tell."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return load / (os.cpu_count() or 1)


def describe_machine() -> dict[str, str | int]:
    """What figures depend on."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": platform.processor() or platform.machine(),
        "instructions": str(torch.backends.cpu.get_cpu_capability()),
        "cores": os.cpu_count() or 1,
        "torch threads": torch.get_num_threads(),
        "GPU": gpu,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
