"""How the classes of a run change when it continues; matched by name. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from utils.checkpoint.format import ClassRecord
from utils.errors import UserError
from utils.options.train_options import CLASSES, Continuation

MAX_NAMES_LISTED = 12


@dataclass(frozen=True)
class ClassChange:
    """The old and the new classes of a run, and which of them are the same."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    sources: tuple[int | None, ...]
    """For each new class, its old number; None if the run has not been trained on it."""

    @property
    def only_renames(self) -> bool:
        """Whether all classes keep their numbers, so that only names change."""
        return self.sources == tuple(range(len(self.old)))

    def to_record(self) -> ClassRecord:
        """Return the change as plain data."""
        pairs = list(zip(self.new, self.sources, strict=True))
        renamed = {self.old[s]: name for name, s in pairs if s is not None and self.old[s] != name}
        return ClassRecord(
            kept=[name for name, source in pairs if source is not None],
            new=[name for name, source in pairs if source is None],
            dropped=[name for i, name in enumerate(self.old) if i not in self.sources],
            renamed=renamed,
        )

    def describe(self) -> str:
        """Return kept, new, dropped and renamed classes as text."""
        record = self.to_record()
        parts = [
            f"{what} {len(names)} ({_listed(names)})" if names else f"{what} 0"
            for what, names in (
                ("kept", record["kept"]),
                ("new", record["new"]),
                ("dropped", record["dropped"]),
                ("renamed", [f"{old} → {new}" for old, new in record["renamed"].items()]),
            )
        ]
        sources = [source for source in self.sources if source is not None]
        order = [] if sources == sorted(sources) else ["order changed"]
        return ", ".join(parts + order)


def class_change(
    old: Sequence[str], new: Sequence[str], how: Continuation, data: str
) -> ClassChange | None:
    """Match the classes of a run with those of its data set by name; None if nothing changes.

    Args:
        old: class names of the run.
        new: class names of the data set.
        how: its renames are applied at once, so that two names can be swapped.
        data: the data-set file, for messages.

    Raises:
        UserError: a rename is impossible or has no effect, classes share a name, or the change is
            not allowed: it is neither a pure renaming nor named by --allow-change.
    """
    renames = how.rename_class
    if list(old) == list(new) and not renames:
        return None
    for names, owner in ((old, "the run"), (new, data)):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise UserError(
                f"{owner} has several classes named {twice[0]}, so classes cannot be matched by "
                "name; use a data set with the same classes as the run."
            )
    renamed = _parsed(renames, old, new, data)
    numbers = {renamed.get(name, name): number for number, name in enumerate(old)}
    change = ClassChange(tuple(old), tuple(new), tuple(map(numbers.get, new)))
    if CLASSES not in how.allow_change and not (renames and change.only_renames):
        raise UserError(
            f"{data} has other classes than the run: {change.describe()}; use a data set with the "
            "same classes, allow the change with --allow-change classes, or rename classes with "
            "--rename-class OLD=NEW."
        )
    return change


def _parsed(
    renames: Sequence[str], old: Sequence[str], new: Sequence[str], data: str
) -> dict[str, str]:
    """Return old to new names after checking each rename."""
    pairs = [(text, *text.split("=", 1)) for text in renames]
    counts = Counter(before for _, before, _ in pairs), Counter(after for *_, after in pairs)
    freed = {before for _, before, _ in pairs}
    for text, before, after in pairs:
        if before not in old:
            problem = f"the run has no class {before}, only {_listed(old)}"
        elif before == after:
            problem = "the two names are the same"
        elif counts[0][before] > 1:
            problem = f"the class {before} is renamed twice"
        elif counts[1][after] > 1:
            problem = f"two classes would have the name {after}, and classes cannot be merged"
        elif after in old and after not in freed:
            problem = f"the run already has a class {after}, and classes cannot be merged"
        elif after not in new:
            problem = f"{data} has no class {after}, only {_listed(new)}"
        else:
            continue
        raise UserError(f"--rename-class {text}: {problem}; correct or omit it.")
    return {before: after for _, before, after in pairs}


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMES_LISTED
    return ", ".join(names[:MAX_NAMES_LISTED]) + (f" and {more} more" if more > 0 else "")
