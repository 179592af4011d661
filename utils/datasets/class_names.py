"""Class names of a data-set file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as shortened

from utils.errors import UserError
from utils.files.yaml_file import read_yaml


def class_names(content: Mapping[str, object], path: Path) -> tuple[str, ...]:
    """Return the class names from a list or an index → name map; check them against `nc`.

    Args:
        content: the data-set file, with `names` read as texts.
        path: the file, for messages.

    Raises:
        UserError: names are missing, empty, equal or not one per class.
    """
    entry = content.get("names")
    if isinstance(entry, dict):
        if sorted(entry, key=str) != sorted(range(len(entry)), key=str):
            raise UserError(f"{path}: the keys of `names:` must be 0, 1, 2 … without a gap.")
        entry = [entry[index] for index in range(len(entry))]
    if not isinstance(entry, list) or not entry:
        raise UserError(
            f"{path} has no class names; add `names:`, a list or a map from index to name."
        )
    count = content.get("nc", len(entry))
    if str(count).strip() != str(len(entry)):  # a number, also in quotes
        raise UserError(
            f"{path}: `nc:` is {shortened(count)}, but `names:` has {len(entry)} entries; "
            "correct one of them."
        )
    if any(isinstance(name, (dict, list)) for name in entry):
        raise UserError(f"{path}: an entry of `names:` is a list or a map; it must be one name.")
    names = tuple(" ".join(str(name).split()) for name in entry)  # a line break would split rows
    twice = next((name for name, number in Counter(names).items() if number > 1), None)
    if twice is not None or "" in names:
        fault = f"two classes named {twice}" if twice else "a class without a name"
        raise UserError(f"{path}: `names:` has {fault}; give each class a name of its own.")
    return names


def retyped_names(path: Path) -> list[str]:
    """Return the class names as earlier versions read them: `off` as False, 007 as 7."""
    content = read_yaml(path)
    entry = content.get("names") if isinstance(content, dict) else None
    if isinstance(entry, dict):
        entry = [entry[index] for index in sorted(entry)]
    return list(map(str, entry)) if isinstance(entry, list) else []
