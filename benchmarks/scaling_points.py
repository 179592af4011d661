"""The points of benchmarks/scaling.py: which there are, and the file that keeps their figures."""

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
"""Images, with which the largest model needs no more memory than the largest batch."""
STRIDE = 32
"""Of the models: sides of images are multiples of it."""
POINTS = "points"

Measured = dict[str, dict[str, Spread]]
"""By command, the figures of a point by name."""


class Point(NamedTuple):
    """Something to be measured, in a process of its own, since peak memory is that of a process."""

    question: str
    """One of `QUESTIONS`."""
    value: int | str
    """Where it stands among the points of its question: px, images, a model file, images."""
    images: int
    """Among which the time is divided: a batch, or 1 where figures are those of an image."""
    command: str
    """What measures it, but for the number of rounds; points of the same command are the same."""


def wanted_points(args: Namespace) -> list[Point]:
    """The points that a command line asks for, question by question.

    Raises:
        UserError: a number is refused.
    """
    least = min(*args.batch_sizes, *args.data_sizes, args.batch_size, args.rounds)
    if least < 1:
        raise UserError(f"there are no {least} images or rounds to be measured; give 1 or more.")
    for side in (*args.sizes, args.imgsz):
        if side < STRIDE or side % STRIDE:
            raise UserError(f"images of {side} px do not fit; give multiples of {STRIDE}.")

    def step(model: str, side: int, batch: int) -> str:
        options = f"--imgsz {side} --batch-size {batch} --amp auto --against="
        return f"benchmarks/step.py --cfg {_from_anywhere(model)} {options}"

    dataset = f"benchmarks/dataset.py --data {_from_anywhere(args.data)} --imgsz {args.imgsz}"
    cfg, side, batch = args.cfg, args.imgsz, args.batch_size
    return [
        *(Point(SIZE, n, batch, step(cfg, n, batch)) for n in args.sizes),
        *(Point(BATCH, n, n, step(cfg, side, n)) for n in args.batch_sizes),
        *(Point(MODEL, m, MODEL_BATCH, step(m, side, MODEL_BATCH)) for m in args.models),
        *(Point(DATA, n, 1, f"{dataset} --images {n} --against=") for n in args.data_sizes),
    ]


def _from_anywhere(name: str) -> str:
    """The name of a file for a command that runs in another folder, quoted."""
    path = Path(name)
    return shlex.quote(str(path.resolve()) if path.is_file() else name)


def missing(points: Sequence[Point], measured: Collection[str]) -> list[str]:
    """The commands of points that are not measured, in their order, each once."""
    return [c for c in dict.fromkeys(p.command for p in points) if c not in measured]


class PointsFile:
    """Measured points in a JSON file, that is written anew after each of them.

    Args:
        path: read, if it is there.
        origin: the program and the machine, which all figures in the file have in common.

    Raises:
        UserError: the file cannot be read, or is of another program or machine.
    """

    def __init__(self, path: Path, resume_point: Mapping[str, object]) -> None:
        self._path = path
        self._content: dict[str, Any] = {**resume_point, POINTS: {}}
        if path.exists():
            self._content = read_json(path)
            self._require(resume_point)

    def _require(self, resume_point: Mapping[str, object]) -> None:
        """Refuse a content that `add` did not write, or for others."""
        found = self._content if isinstance(self._content, dict) else {}
        for part, own in resume_point.items():
            if (other := found.get(part)) != own:
                text = f"{self._path} is of {part} {other}, not {own}"
                raise UserError(f"{text}; choose another --out.")
        try:
            _ = self.measured
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(
                f"{self._path}: its points are not as this program writes them; remove the file."
            ) from error

    @property
    def measured(self) -> Measured:
        """The figures of all points."""
        return {
            command: {name: Spread(**spread) for name, spread in point["figures"].items()}
            for command, point in self._content[POINTS].items()
        }

    def add(self, command: str, point: Mapping[str, object]) -> None:
        """Keep a point.

        Args:
            command: what measured it.
            point: `result`, as the benchmarks write them, and what else there is to tell.

        Raises:
            UserError: the file cannot be written.
        """
        self._content[POINTS][command] = point
        text = json.dumps(self._content, indent=1) + "\n"
        atomic_write_text(self._path, text)
