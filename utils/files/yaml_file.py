"""Read and write YAML files; reading accepts plain values only, within safe limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import yaml

from utils.errors import UserError
from utils.files.atomic_write import atomic_write_text

MAX_BYTES = 1 << 20
"""About 30,000 class names; parsing this much takes seconds."""
MAX_DEPTH = 20
MAX_QUOTED = 40  # characters of a quoted value
MAX_ALIASES = 10
"""With this many aliases a file can expand at most 39-fold, even if they are nested."""
MAX_DIGITS = 1000
"""Digits of a number; Python does not print integers of more than 4,300 digits."""
TEXT = "tag:yaml.org,2002:str"
# PyYAML's constructors also raise built-in errors, for example for a month 13 or `!!int ""`.
VALUE_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError)


def read_yaml(path: Path, *, texts: str = "") -> object:
    """Read a YAML file: dicts, lists, strings, numbers, dates, booleans and None.

    Args:
        path: the file.
        texts: a key of the file; the items of its list, or the values of its map, stay text as
            written, for example `off`, `007` or `null`.

    Raises:
        UserError: the file cannot be read, is not YAML, contains a Python type, exceeds the limits
            for size, nesting, aliases or digits, or the map at `texts` has a key twice.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(
                f"{path} is larger than {MAX_BYTES >> 20} MiB; give a smaller YAML file."
            )
        text = content.decode("utf-8-sig")
        _check_structure(text, path)
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        _keep_texts(root, texts, path)
        return None if root is None else loader.construct_document(root)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a YAML file.") from error
    except VALUE_ERRORS as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is damaged ({reason}); correct the YAML.") from error


def _keep_texts(root: yaml.Node | None, key: str, path: Path) -> None:
    """Make the items below a key of the file strings."""
    entries = root.value if isinstance(root, yaml.MappingNode) and key else []
    for name, node in entries:
        if name.value != key or not isinstance(node, yaml.CollectionNode):
            continue
        items = node.value
        if isinstance(node, yaml.MappingNode):
            keys = Counter(item.value for item, _ in node.value if isinstance(item.value, str))
            twice = [item for item, number in keys.items() if number > 1]
            if twice:
                raise UserError(f"{path}: `{key}:` has the key {twice[0]} twice; remove one.")
            items = [value for _, value in node.value]
        for item in items:
            if isinstance(item, yaml.ScalarNode):
                item.tag = TEXT


def write_yaml(data: Mapping[str, object], path: Path) -> None:
    """Write plain data to a YAML file atomically, in the order of its keys.

    Raises:
        UnwritableError: as for `atomic_write`.
    """
    text = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True)
    atomic_write_text(path, text)


def _check_structure(text: str, path: Path) -> None:
    """Check the structure before any objects are built; parsing events needs no recursion."""
    depth = aliases = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        elif isinstance(event, yaml.ScalarEvent):
            _check_value(event, path)
        if depth > MAX_DEPTH or aliases > MAX_ALIASES:
            raise UserError(
                f"{path} is nested more than {MAX_DEPTH} levels deep or has more than "
                f"{MAX_ALIASES} aliases (*name); write it with fewer."
            )


def _check_value(event: yaml.ScalarEvent, path: Path) -> None:
    """Check a value for a NUL, for half of a surrogate pair, and for the length of a number."""
    if "\0" in event.value or any("\ud800" <= c <= "\udfff" for c in event.value):
        raise UserError(
            f"{path} has an invalid character in {event.value[:MAX_QUOTED]!a}; remove it."
        )
    if len(event.value) > MAX_DIGITS and event.value.lstrip("+-.")[:1].isdigit():
        raise UserError(
            f"{path} has a number of {len(event.value)} digits, more than {MAX_DIGITS}; shorten it."
        )
