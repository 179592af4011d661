"""YAML files: read as others wrote them, plain values only and nothing that blows up; written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from utils.errors import UserError
from utils.files.atomic_write import write_text_replacing

MAX_BYTES = 1 << 20
"""Some 30,000 class names; the parser takes seconds for this much."""
MAX_DEPTH = 20
SHOWN = 40  # characters of a value that is quoted
MAX_ALIASES = 10
"""With so few references a file cannot grow more than 39-fold, however they are nested."""
MAX_DIGITS = 1000
"""Of a number; Python refuses to show one of more than 4,300."""
# What the constructors of PyYAML are known to raise on a month 13 or `!!int ""`, beside its own.
VALUE_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError)


def read_yaml(path: Path) -> object:
    """The content of a YAML file, made of dicts, lists, texts, numbers, dates, booleans and None.

    Raises:
        UserError: it cannot be read, is not YAML, names a type of Python, or is large, deep or full
            of references beyond all use.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(f"{path} has more than {MAX_BYTES >> 20} MiB; it is not for settings.")
        text = content.decode("utf-8-sig")
        _require_harmless(text, path)
        return yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    except VALUE_ERRORS as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not readable YAML: {reason}") from error


def write_yaml(data: Mapping[str, object], path: Path) -> None:
    """Write plain data as YAML, in the order of its keys, at once or not at all.

    Raises:
        UnwritableError: as for `write_replacing`.
    """
    text = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True)
    write_text_replacing(path, text)


def _require_harmless(text: str, path: Path) -> None:
    """Look at the structure before anything is built from it; the parser needs no recursion."""
    depth = aliases = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        elif isinstance(event, yaml.ScalarEvent):
            _require_harmless_value(event, path)
        if depth > MAX_DEPTH or aliases > MAX_ALIASES:
            raise UserError(
                f"{path} is refused: it is nested more than {MAX_DEPTH} deep or has more than "
                f"{MAX_ALIASES} aliases (*name); write it out plainly."
            )


def _require_harmless_value(event: yaml.ScalarEvent, path: Path) -> None:
    """Refuse what no name, path or number is made of: a NUL, or half of a surrogate pair."""
    if "\0" in event.value or any("\ud800" <= c <= "\udfff" for c in event.value):
        raise UserError(f"{path} holds a character that is no text: {event.value[:SHOWN]!a}.")
    if len(event.value) > MAX_DIGITS and event.value.lstrip("+-.")[:1].isdigit():
        raise UserError(f"{path} holds a number of {len(event.value)} digits; shorten it.")
