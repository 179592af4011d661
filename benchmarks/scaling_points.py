"""The points that benchmarks/scaling.py measures, and the file that stores their results."""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.timing import Spread
from utils.errors import UserError
from utils.files.atomic_write import atomic_write_text
from utils.files.json_file import read_json

SIZE, BATCH, MODEL, DATA = QUESTIONS = ("size", "batch", "model", "data")
MODEL_BATCH = 4
"""Batch size for comparing models; the largest then needs no more memory than --batch-sizes."""
STRIDE = 32
"""Maximum stride of the models; image sizes must be multiples of it."""
POINTS_KEY = "points"

PointResults = dict[str, dict[str, Spread]]
"""The spreads of a point by metric, for each command."""


class Point(NamedTuple):
    """A point to measure, in its own process because peak memory is counted per process."""

    question: str
    """One of `QUESTIONS`."""
    value: int | str
    """Value on the x axis: pixels, images per batch, a model file, or images in a data set."""
    images: int
    """Number of images to divide times by: the batch size, or 1 for times of one image."""
    command: str
    """Command that measures it, without --rounds; equal commands are the same point."""


def requested_points(args: Namespace) -> list[Point]:
    """Return the points that a command line requests, question by question.

    Raises:
        UserError: a number is out of range.
    """
    counts = {"--batch-sizes": args.batch_sizes, "--data-sizes": args.data_sizes}
    counts |= {"--batch-size": [args.batch_size], "--rounds": [args.rounds]}
    for flag, values in counts.items():
        if min(values) < 1:
            raise UserError(f"{flag} {min(values)}: must be at least 1.")
    for flag, sides in {"--sizes": args.sizes, "--imgsz": [args.imgsz]}.items():
        for side in sides:
            if side < STRIDE or side % STRIDE:
                raise UserError(f"{flag} {side}: must be a positive multiple of {STRIDE}.")

    def step(model: str, side: int, batch: int) -> str:
        options = f"--imgsz {side} --batch-size {batch} --amp auto --against="
        return f"benchmarks/step.py --cfg {_absolute_name(model)} {options}"

    dataset = f"benchmarks/dataset.py --data {_absolute_name(args.data)} --imgsz {args.imgsz}"
    cfg, side, batch = args.cfg, args.imgsz, args.batch_size
    return [
        *(Point(SIZE, n, batch, step(cfg, n, batch)) for n in args.sizes),
        *(Point(BATCH, n, n, step(cfg, side, n)) for n in args.batch_sizes),
        *(Point(MODEL, m, MODEL_BATCH, step(m, side, MODEL_BATCH)) for m in args.models),
        *(Point(DATA, n, 1, f"{dataset} --images {n} --against=") for n in args.data_sizes),
    ]


def _absolute_name(name: str) -> str:
    """Return a file name that a command in another folder can use, quoted for the shell."""
    path = Path(name)
    return shlex.quote(str(path.resolve()) if path.is_file() else name)


def missing_commands(points: Sequence[Point], measured: Collection[str]) -> list[str]:
    """Return the commands of points without results, in order, without duplicates."""
    return [c for c in dict.fromkeys(p.command for p in points) if c not in measured]


class PointsFile:
    """Results of points in a JSON file, which is rewritten after each point.

    Args:
        path: the file; it is read if it exists.
        header: the program and the machine, common to all results in the file.

    Raises:
        UserError: the file cannot be read, or belongs to another program or machine.
    """

    def __init__(self, path: Path, header: Mapping[str, object]) -> None:
        self._path = path
        self._content: dict[str, Any] = {**header, POINTS_KEY: {}}
        if path.exists():
            self._content = read_json(path)
            self._check(header)

    def _check(self, header: Mapping[str, object]) -> None:
        """Check that `add` wrote the content, for this program and machine."""
        content = self._content if isinstance(self._content, dict) else {}
        for key, expected in header.items():
            if (found := content.get(key)) != expected:
                text = f"{self._path} belongs to {key} {found}, not {expected}"
                raise UserError(f"{text}; choose another --out.")
        try:
            _ = self.measured
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(
                f"{self._path} is damaged (its points have an unknown form); remove the file."
            ) from error

    @property
    def measured(self) -> PointResults:
        """The results of all points, by command."""
        return {
            command: {name: Spread(**spread) for name, spread in point["figures"].items()}
            for command, point in self._content[POINTS_KEY].items()
        }

    def add(self, command: str, point: Mapping[str, object]) -> None:
        """Store a point and write the file.

        Args:
            command: the command that measured it.
            point: `figures`, as the benchmarks write them, and other entries.

        Raises:
            UserError: the file cannot be written.
        """
        self._content[POINTS_KEY][command] = point
        text = json.dumps(self._content, indent=1) + "\n"
        atomic_write_text(self._path, text)
