"""Names of output files, of which none replaces another."""

from __future__ import annotations

from typing import TypeVar

Owner = TypeVar("Owner")


def unique_name(name: str, owners: dict[str, Owner], owner: Owner) -> str:
    """Return the name that belongs to an owner: this one, or with a number, as a2 or 1_2.

    Args:
        name: the wanted name, without a suffix.
        owners: the names in use, to which the result is added.
        owner: what is written under the name; it gets the same name each time.
    """
    candidate, number = name, 2
    separator = "_" if name[-1:].isdecimal() else ""
    while owners.setdefault(candidate, owner) != owner:
        candidate, number = f"{name}{separator}{number}", number + 1
    return candidate
