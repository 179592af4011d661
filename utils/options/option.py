"""A command-line option: a dataclass field whose metadata describe it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, TypeVar

from utils.errors import UserError

T = TypeVar("T")

REQUIRED: Any = dataclasses.MISSING
"""In place of a default: the option is required."""
OPTION_KEY = "option"  # in the metadata of a field
IMAGE_SIZE_FLAGS = ("--img", "--img-size")
"""YOLOv5's other names of --imgsz."""
MAX_NUMBER = 10**9
"""Of options without a maximum: far more than makes sense, but no overflow."""
MAX_PART, MAX_PATH, MAX_SHOWN = 255, 4095, 40
"""Bytes of the parts of a path and of a path, on Linux; characters of a longer one in messages."""
MAX_IMAGE_SIZE, MAX_WORKERS, MAX_SEED = 32_768, 1024, 2**64 - 1


class OnResume(Enum):
    """What happens if the command that resumes a run changes an option of the run."""

    FIXED = auto()
    """Error."""
    ALLOWABLE = auto()
    """Error unless --allow-change names the option: the training changes but can continue."""
    FREE = auto()
    """The new value is used: it changes outputs or rounding, not the training steps. A flag also
    has a --no-FLAG form."""
    NOT_INHERITED = auto()
    """The new value is used, for this command only: a resumed run does not inherit the option."""


@dataclass(frozen=True)
class Option:
    """The properties of an option beyond the name, type and default of its field."""

    help: str
    """Text for --help. The default is appended, or replaces `{default}`; see `help_for`."""
    resume: OnResume = OnResume.FIXED
    flags: tuple[str, ...] = ()
    """Alternative flags."""
    metavar: str | None = None
    choices: tuple[object, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None
    """Requires `minimum`. Without it, numbers are limited to `MAX_NUMBER`."""
    below: float | None = None
    """Exclusive maximum; requires `minimum`."""
    const: object = None
    """Value of the option without an argument; None: an argument is required."""
    positional: bool = False
    repeatable: bool = False
    """Of a list: the values of repeated flags are joined; otherwise the last flag counts."""
    group: str | None = None
    """Title in --help above this option and those after it."""
    exclusive: str | None = None
    """Name of a mutually exclusive group."""

    def help_for(self, default: object) -> str:
        """The text for --help; names a default that is a number or a non-empty text."""
        named = isinstance(default, int | float | str) and default != ""
        if named and not isinstance(default, bool) and "(default" not in self.help:
            return f"{self.help} (default: {default})"
        return self.help.format(default=default)

    def accepts(self, value: Any) -> bool:  # noqa: ANN401 -- of the field's type
        """Whether a value is one of the choices and within bounds."""
        if isinstance(value, int | float) and not self._is_moderate(value):
            return False
        return (
            (self.choices is None or value in self.choices)
            and (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.below is None or value < self.below)
        )

    def _is_moderate(self, value: float) -> bool:
        return self.maximum is not None or -MAX_NUMBER <= value <= MAX_NUMBER

    def rule(self, value: object) -> str:
        """What an invalid value must be, for an error message."""
        if isinstance(value, int | float) and not self._is_moderate(value):
            return f"must be between {self.minimum or -MAX_NUMBER} and {MAX_NUMBER}"
        if self.choices is not None:
            return f"choose one of {', '.join(map(str, self.choices))}"
        if self.below is not None:
            return f"must be at least {self.minimum} and less than {self.below}"
        if self.maximum is not None:
            return f"must be between {self.minimum} and {self.maximum}"
        return f"must be at least {self.minimum}"


def option(default: T, /, *properties: Any, **named: Any) -> T:  # noqa: ANN401 -- of `Option`
    """Return the field of a dataclass that declares an option.

    Example: `epochs: int = option(100, "planned epochs", minimum=1)`. The arguments after the
    default are those of `Option`. Type checkers see only the type of the default.
    """
    start: dict[str, Any] = {"default": default}  # arguments of `dataclasses.field`
    if isinstance(default, list):
        start = {"default_factory": default.copy}
    declared: T = dataclasses.field(**start, metadata={OPTION_KEY: Option(*properties, **named)})
    return declared


def options_of(options: type) -> Mapping[str, Option]:
    """The options of a dataclass by name, in the order of the fields."""
    return {field.name: field.metadata[OPTION_KEY] for field in dataclasses.fields(options)}


def option_names(options: type, *rules: OnResume) -> frozenset[str]:
    """The names of the options of a dataclass that have one of these `OnResume` rules."""
    return frozenset(name for name, one in options_of(options).items() if one.resume in rules)


def flag_of(name: str) -> str:
    """The command-line flag of an option: `batch_size` to `--batch-size`."""
    return "--" + name.replace("_", "-")


def check(options: object) -> None:
    """Check that every value is one of the choices and within bounds, and no path is too long.

    Raises:
        UserError: for the first invalid value.
    """
    for name, one in options_of(type(options)).items():
        value = getattr(options, name)
        for item in value if isinstance(value, list) else [value]:
            if item is not None and not one.accepts(item):
                raise UserError(f"{flag_of(name)} {item}: {one.rule(item)}.")
            if isinstance(item, str | Path) and _is_too_long(str(item)):
                shown = str(item)[:MAX_SHOWN]
                raise UserError(f"{flag_of(name)} {shown}…: is too long; use a shorter path.")


def _is_too_long(path: str) -> bool:
    """Whether no file can have this path; most texts are one. URLs may be longer."""
    parts = [] if "://" in path else os.fsencode(path).split(b"/")
    return max(map(len, parts), default=0) > MAX_PART or len(path) > MAX_PATH
