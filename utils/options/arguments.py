"""Turns dataclasses of options into argparse arguments, and parsed arguments into dataclasses."""

from __future__ import annotations

import dataclasses
from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction, _ActionsContainer
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from utils.options.option import REQUIRED, OnResume, Option, flag_of, options_of

T = TypeVar("T")


def add_options(parser: ArgumentParser, options: type) -> None:
    """Add the options of a dataclass to a parser, in the order of the fields.

    The result of a parser with `argument_default=SUPPRESS` contains only the options on the command
    line, without defaults.
    """
    types = get_type_hints(options)
    group: _ActionsContainer = parser
    exclusive: dict[str, _ActionsContainer] = {}
    for field in dataclasses.fields(options):
        option = options_of(options)[field.name]
        if option.group:
            group = parser.add_argument_group(option.group)
        target = group
        if option.exclusive:
            if option.exclusive not in exclusive:
                exclusive[option.exclusive] = group.add_mutually_exclusive_group()
            target = exclusive[option.exclusive]
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        settings = _settings(option, types[field.name], default)
        if default is not REQUIRED and parser.argument_default is not SUPPRESS:
            # `extend` would add to a default; without a value, the dataclass has it.
            settings["default"] = None if option.repeatable else default
        if option.positional:
            if default is not REQUIRED:
                settings.setdefault("nargs", "?")
            target.add_argument(field.name, **settings)
        else:
            flags = (flag_of(field.name), *option.flags)
            target.add_argument(*flags, required=default is REQUIRED, **settings)


def parse_options(parser: ArgumentParser, options: type[T], argv: Sequence[str] | None = None) -> T:
    """Parse a command line into a dataclass of options.

    Raises:
        UserError: if a value is invalid or options contradict each other.
    """
    return options_from(vars(parser.parse_args(argv)), options)


def options_from(
    given: Mapping[str, Any],  # as argparse returns them; the dataclass checks them
    options: type[T],
) -> T:
    """Build a dataclass of options; ignores values that are None or for which it has no field."""
    found = {name: given[name] for name in options_of(options) if given.get(name) is not None}
    return options(**found)


def _settings(
    option: Option, hint: object, default: object
) -> dict[str, Any]:  # keyword arguments of argparse
    """Keyword arguments of `add_argument` for an option."""
    settings: dict[str, Any] = {"help": option.help_for(default)}
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    if hint is bool:
        inherited = option.resume is OnResume.FREE  # a resumed run needs --no-FLAG to turn it off
        return settings | {"action": BooleanOptionalAction if inherited else "store_true"}
    container, inner = get_origin(hint), get_args(hint)
    if container is list:
        settings |= {"nargs": "+", "type": inner[0]}
        settings |= {"action": "extend"} if option.repeatable else {}
    elif container is frozenset:
        settings["type"] = _parse_option_names
    else:
        settings["type"] = type(inner[0]) if container is Literal else hint
    if option.const is not None:
        settings |= {"nargs": "?", "const": option.const}
    return settings | {"choices": option.choices, "metavar": option.metavar}


def _parse_option_names(text: str) -> frozenset[str]:
    """Option names from comma-separated text."""
    return frozenset(name.strip().lstrip("-").replace("-", "_") for name in text.split(","))
