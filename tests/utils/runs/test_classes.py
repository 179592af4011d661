"""Classes are matched by name."""

import pytest

from utils.errors import UserError
from utils.options.parser import parse_request
from utils.runs.classes import ClassChange, class_change

OLD = ("car", "bus", "dog")


def changed(new: tuple[str, ...], *more: str, old: tuple[str, ...] = OLD) -> ClassChange | None:
    how = parse_request(["--resume", "a", *more]).continuation
    return class_change(old, new, how, "new.yaml")


def allowed(new: tuple[str, ...], *more: str) -> ClassChange:
    change = changed(new, "--allow-change", "classes", *more)
    assert change is not None
    return change


def test_unchanged_classes_are_no_change() -> None:
    assert changed(OLD) is None
    assert changed(OLD, "--allow-change", "classes") is None
    assert changed(("a", "a"), old=("a", "a")) is None  # nothing has to be matched


@pytest.mark.parametrize(
    ("new", "sources", "description"),
    [
        (
            ("dog", "van", "car"),
            (2, None, 0),
            "kept 2 (dog, car), new 1 (van), dropped 1 (bus), renamed 0, order changed",
        ),
        (("bus", "dog"), (1, 2), "kept 2 (bus, dog), new 0, dropped 1 (car), renamed 0"),
        (("van",), (None,), "kept 0, new 1 (van), dropped 3 (car, bus, dog), renamed 0"),
    ],
)
def test_classes_are_matched_by_name(
    new: tuple[str, ...], sources: tuple[int | None, ...], description: str
) -> None:
    change = allowed(new)
    assert (change.sources, change.describe()) == (sources, description)
    assert not change.only_renames


def test_renames_apply_at_once() -> None:
    change = allowed(("auto", "lorry", "dog", "cat"), "--rename-class", "car=auto", "bus=lorry")
    assert change.sources == (0, 1, 2, None)
    assert change.to_record() == {
        "kept": ["auto", "lorry", "dog"],
        "new": ["cat"],
        "dropped": [],
        "renamed": {"car": "auto", "bus": "lorry"},
    }
    swap = ("--rename-class", "car=bus", "--rename-class", "bus=car")
    swapped = changed(("bus", "car", "dog"), *swap)  # needs no --allow-change
    assert swapped is not None
    assert swapped.only_renames
    assert swapped.describe().endswith("renamed 2 (car → bus, bus → car)")


def test_long_lists_are_shortened() -> None:
    text = allowed(tuple(f"c{number}" for number in range(20))).describe()
    assert "new 20 (c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11 and 8 more)" in text


@pytest.mark.parametrize(
    ("new", "how", "message"),
    [
        (("car",), "", r"new\.yaml has other classes .* dropped 2 .*--allow-change classes"),
        (("auto", "bus", "dog", "cat"), "car=auto", "kept 3 .*new 1 .*--allow-change classes"),
        (("auto", "bus", "dog"), "cat=auto", r"cat=auto: the run has no class cat, only car, bus"),
        (OLD, "car=auto", "car=auto: new.yaml has no class auto, only car, bus, dog; correct"),
        (OLD, "car=car", "car=car: the two names are the same"),
        (("auto", "van"), "car=auto car=van", "the class car is renamed twice"),
        (("auto", "dog"), "car=auto bus=auto", "two classes would have the name auto"),
        (
            ("bus", "dog"),
            "car=bus",
            "the run already has a class bus, and classes cannot be merged",
        ),
        (("car", "car"), "", r"new\.yaml has several classes named car"),
    ],
)
def test_impossible_changes_are_errors(new: tuple[str, ...], how: str, message: str) -> None:
    more = ["--rename-class", *how.split()] if how else []
    with pytest.raises(UserError, match=message):
        changed(new, *more)


def test_options_are_checked_before_any_file_is_read() -> None:
    for text in ("car", "=a", "a="):
        with pytest.raises(UserError, match=f"--rename-class {text}: must be OLD=NEW"):
            parse_request(["--resume", "a", "--rename-class", text])
    with pytest.raises(UserError, match="--rename-class needs --resume"):
        parse_request(["--rename-class", "a=b"])
    how = parse_request(["--resume", "a", "--allow-change", "classes"]).continuation
    assert how.allow_change == {"classes", "data"}  # other classes have other labels
