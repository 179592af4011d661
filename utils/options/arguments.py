"""From a command line to dataclasses of options: what argparse is told, and what it returns."""

from __future__ import annotations

import dataclasses
from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction, _ActionsContainer
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from utils.options.option import REQUIRED, OnResume, Option, flag_of, options_of

T = TypeVar("T")


def add_options(parser: ArgumentParser, options: type) -> None:
    """Add the options of a dataclass to a parser, in their order.

    Args:
        parser: gets them; with `argument_default=SUPPRESS` it leaves out what is not given.
        options: the dataclass.
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
            settings["default"] = default
        if option.positional:
            target.add_argument(field.name, **settings)
        else:
            flags = (flag_of(field.name), *option.flags)
            target.add_argument(*flags, required=default is REQUIRED, **settings)


def parse_options(parser: ArgumentParser, options: type[T], argv: Sequence[str] | None = None) -> T:
    """The options that a command line gives, and the defaults of the others.

    Raises:
        UserError: a value is refused, or options contradict each other.
    """
    return options_from(vars(parser.parse_args(argv)), options)


def options_from(given: Mapping[str, Any], options: type[T]) -> T:
    """A dataclass of options from those of the given values that it has a field for."""
    return options(**{name: given[name] for name in options_of(options) if name in given})


def _settings(option: Option, hint: object, default: object) -> dict[str, Any]:
    """What argparse has to know about an option, by its names for it."""
    settings: dict[str, Any] = {"help": option.help.format(default=default)}
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    if hint is bool:
        handed_on = option.resume is OnResume.FREE  # so there has to be a way to turn it off
        return settings | {"action": BooleanOptionalAction if handed_on else "store_true"}
    container, inner = get_origin(hint), get_args(hint)
    if container is list:
        settings |= {"nargs": "+", "type": inner[0]}
    elif container is frozenset:
        settings["type"] = _names
    else:
        settings["type"] = type(inner[0]) if container is Literal else hint
    if option.const is not None:
        settings |= {"nargs": "?", "const": option.const}
    return settings | {"choices": option.choices, "metavar": option.metavar}


def _names(text: str) -> frozenset[str]:
    """Names of options, from a list with commas."""
    return frozenset(name.strip().lstrip("-").replace("-", "_") for name in text.split(","))
