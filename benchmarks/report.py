"""Shared by the benchmarks: options, interleaved variants, a table and a JSON file."""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from string import ascii_uppercase
from types import MappingProxyType
from typing import NamedTuple

from benchmarks.timing import Measure, Spread, measure_interleaved
from utils.errors import UserError
from utils.files.atomic_write import atomic_write_text

log = logging.getLogger("yolo")

MAX_IDLE_LOAD = 0.3
"""Load average per core above which the results are not reliable."""

NO_EXTRA: Mapping[str, object] = MappingProxyType({})

FAILED = "FAILED"
"""Verdict of a check that does not hold."""

Results = dict[str, dict[str, Spread]]
"""Spreads by variant and metric."""


class Check(NamedTuple):
    """A line of a table of checks: what was measured, and whether that is good enough."""

    name: str
    value: float | None
    """None: not measured; `note` says why. NaN: the measurement failed."""
    limit: float | None = None
    """The check holds up to this value; None: any value is good."""
    note: str = ""

    @property
    def verdict(self) -> str:
        """skipped, measured, held or FAILED."""
        if self.value is None:
            return "skipped"
        if self.limit is None:
            return "measured"
        return "held" if self.value <= self.limit else FAILED  # NaN is not

    @property
    def cells(self) -> list[str]:
        """The columns of the table, without the note."""
        numbers = ("" if n is None else f"{n:.4g}" for n in (self.value, self.limit))
        return [self.name, self.verdict, *numbers]

    def to_json(self) -> dict[str, str | float | None]:
        """Return the fields and the verdict; null for NaN, which JSON does not have."""
        found = {"verdict": self.verdict, **self._asdict()}
        return found | {"value": None if math.isnan(self.value or 0) else self.value}


def add_common_options(parser: argparse.ArgumentParser, rounds: int, against: str) -> None:
    """Add the options of every benchmark that compares variants.

    Args:
        parser: the benchmark's parser.
        rounds: default number of rounds.
        against: default of --against.
    """
    parser.add_argument(
        "--against",
        action="append",
        metavar="OPTIONS",
        help="also measure a second variant in turns with the first: the same command line plus "
        f"these options; repeatable, empty for none (default: {against})",
    )
    parser.set_defaults(default_against=against)
    add_round_options(parser, rounds)


def add_round_options(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Add the number of rounds and the path of the JSON file.

    Args:
        parser: the benchmark's parser.
        rounds: default number of rounds.
    """
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"rounds per variant (default: {rounds})"
    )
    parser.add_argument(
        "--warm-up", type=int, default=1, help="rounds to discard first (default: 1)"
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="also write the results to this file"
    )


def compare(
    parser: argparse.ArgumentParser, prepare: Callable[[argparse.Namespace], Measure]
) -> None:
    """Parse the command line, measure its variants in turns, report the results.

    Args:
        parser: the benchmark's parser, with the common options.
        prepare: sets up one variant and returns the function that measures a round.

    Raises:
        UserError: --rounds or --warm-up is out of range, or the JSON file cannot be written.
    """
    words = sys.argv[1:]
    args = parser.parse_args(words)
    requested = [args.default_against] if args.against is None else args.against
    descriptions = {"A": shlex.join(words) or "the default options"}
    measures = {"A": prepare(args)}
    others = [options for options in requested if options]
    for name, options in zip(ascii_uppercase[1:], others, strict=False):
        descriptions[name] = f"A {options}"
        measures[name] = prepare(parser.parse_args(words + shlex.split(options)))
    measure_and_report(parser, args, measures, descriptions)


def measure_and_report(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    measures: Mapping[str, Measure],
    descriptions: Mapping[str, str],
    extra: Mapping[str, object] = NO_EXTRA,
) -> None:
    """Measure the variants in turns, log the table, write the JSON file.

    Args:
        parser: the benchmark's parser, for its name.
        args: the common options.
        measures: functions that measure one round, by variant.
        descriptions: options of each variant, for readers who did not see the command line.
        extra: more entries of the JSON file.

    Raises:
        UserError: --rounds or --warm-up is out of range, or the JSON file cannot be written.
    """
    for flag, value, minimum in (("--rounds", args.rounds, 1), ("--warm-up", args.warm_up, 0)):
        if value < minimum:
            raise UserError(f"{flag} {value}: must be at least {minimum}.")
    load = load_per_core()
    results = measure_interleaved(measures, args.rounds, args.warm_up)
    for name, description in descriptions.items():
        log.info("%s: %s", name, description)
    log.info("%s", table(results))
    if load > MAX_IDLE_LOAD:
        log.warning("The machine was busy before the start: expect results that are too slow.")
    if args.json:
        content = {
            "program": parser.prog,
            "machine": describe_machine(),
            "load per core before": round(load, 2),
            "rounds": args.rounds,
            "variants": dict(descriptions),
            "figures": {
                name: {metric: found._asdict() for metric, found in result.items()}
                for name, result in results.items()
            },
            "ratios": {name: ratios(results, name) for name in list(results)[1:]},
            **extra,
        }
        text = json.dumps(content, indent=2) + "\n"
        atomic_write_text(args.json, text)


def ratios(results: Results, variant: str) -> dict[str, float]:
    """Return the medians of a variant divided by those of the first, for metrics of both."""
    first = next(iter(results.values()))
    return {
        metric: found.median / first[metric].median
        for metric, found in results[variant].items()
        if metric in first and first[metric].median
    }


def table(results: Results) -> str:
    """Return a table with a line per metric: median, minimum, maximum, ratio to the first variant.

    Args:
        results: results of at least one variant.
    """
    first, *others = results
    header = ["", f"{first}: median (min - max)"]
    for name in others:
        header += [f"{name}: median (min - max)", f"{name}/{first}"]
    metrics = dict.fromkeys(itertools.chain.from_iterable(results.values()))
    return align_columns([header, *([metric, *_cells(results, metric)] for metric in metrics)])


def align_columns(rows: list[list[str]]) -> str:
    """Return the rows as lines of text, the first column aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _cells(results: Results, metric: str) -> Iterator[str]:
    for number, (name, result) in enumerate(results.items()):
        found = result.get(metric)
        yield "-" if found is None else "{:.4g} ({:.4g} - {:.4g})".format(*found)
        if number:
            ratio = ratios(results, name).get(metric)
            yield "-" if ratio is None else f"{ratio:.3g}"


def load_per_core() -> float:
    """Return the load average of the last minute per core; 0 where it is not available."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return load / (os.cpu_count() or 1)


def describe_machine() -> dict[str, str | int]:
    """Return the properties of the machine that affect results."""
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
