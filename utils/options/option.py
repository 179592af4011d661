"""An option of a program: a field of a dataclass, with all that is known about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Concatenate, ParamSpec, TypeVar

from utils.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")

REQUIRED: Any = dataclasses.MISSING
"""Stands for the default of an option that has to be given."""
OPTION = "option"  # key in the metadata of a field


class OnResume(Enum):
    """What happens if a command that resumes a run gives an option another value than the run's."""

    FIXED = auto()
    """It is refused."""
    ALLOWABLE = auto()
    """It is refused, but --allow-change lets it pass: the training changes, and can go on."""
    FREE = auto()
    """It is used: it changes outputs or rounding, not the steps. Flags also have --no-FLAG."""
    NOT_INHERITED = auto()
    """It is used, by this command alone: a run does not hand the option on."""


@dataclass(frozen=True)
class Option:
    """What the name, type and default of a field do not say."""

    help: str
    """For --help; `{default}` stands for the default."""
    flags: tuple[str, ...] = ()
    """Further spellings."""
    metavar: str | None = None
    choices: tuple[object, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None
    """Goes with a minimum."""
    below: float | None = None
    """A maximum that is itself refused."""
    refusal: str | None = None
    """The sentence for a refused value, if not the usual one; a template, see `refuse`."""
    const: object = None
    """The value if the option is given without one; None: it needs one."""
    positional: bool = False
    group: str | None = None
    """Heading in --help, of this option and those after it."""
    exclusive: str | None = None
    """Of the options with the same word here, at most one can be given."""
    resume: OnResume = OnResume.FIXED

    @property
    def is_free(self) -> bool:
        """Whether a command that resumes a run may give any value."""
        return self.resume in (OnResume.FREE, OnResume.NOT_INHERITED)

    def accepts(self, value: Any) -> bool:  # noqa: ANN401 -- of the field's type
        """Whether a value is one of the choices and within the bounds."""
        return not (
            (self.choices is not None and value not in self.choices)
            or (self.minimum is not None and value < self.minimum)
            or (self.maximum is not None and not value <= self.maximum)
            or (self.below is not None and not value < self.below)
        )

    def refuse(self, flag: str, value: object) -> UserError:
        """The error for a value that is not accepted."""
        choices = ", ".join(map(str, self.choices or ()))
        upper = self.maximum if self.below is None else f"below {self.below}"
        if choices:
            usual = "{flag} {value}: choose one of {choices}."
        elif upper is None:
            usual = "{flag} {value}: give at least {minimum}."
        else:
            usual = "{flag} {value}: give a number from {minimum} to {upper}."
        template = self.refusal or usual
        return UserError(
            template.format(
                flag=flag, value=value, choices=choices, minimum=self.minimum, upper=upper
            )
        )


def _with_default(record: Callable[P, Option]) -> Callable[Concatenate[T, P], T]:
    def field(default: T, /, *args: P.args, **kwargs: P.kwargs) -> T:
        start: dict[str, Any] = {"default": default}
        if isinstance(default, list):
            start = {"default_factory": default.copy}
        declared: T = dataclasses.field(**start, metadata={OPTION: record(*args, **kwargs)})
        return declared

    return field


option = _with_default(Option)
"""Declares a field: `epochs: int = option(100, "planned total", minimum=1)`.

The default comes first, then the arguments of `Option`. Type checkers see the default alone.
"""


def options_of(options: type) -> Mapping[str, Option]:
    """The options of a dataclass by name, in their order."""
    return {field.name: field.metadata[OPTION] for field in dataclasses.fields(options)}


def option_names(options: type, *rules: OnResume) -> frozenset[str]:
    """The names of the options of a dataclass that have one of these rules."""
    return frozenset(name for name, one in options_of(options).items() if one.resume in rules)


def flag_of(name: str) -> str:
    """An option's name as it is written on the command line."""
    return "--" + name.replace("_", "-")


def check(options: object) -> None:
    """Refuse values that are not among the choices or are out of bounds.

    Raises:
        UserError: for the first of them.
    """
    for name, one in options_of(type(options)).items():
        value = getattr(options, name)
        for item in value if isinstance(value, list) else [value]:
            if item is not None and not one.accepts(item):
                raise one.refuse(flag_of(name), item)
