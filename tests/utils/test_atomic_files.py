import os
from collections.abc import Callable
from pathlib import Path

import pytest

from utils.atomic_files import copy_replacing, link_replacing, write_replacing


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "x.npz"

    def succeed(part: Path) -> None:
        part.write_text("first")

    def fail(part: Path) -> None:
        assert part.suffix == ".npz"
        part.write_text("half")
        raise KeyboardInterrupt

    write_replacing(target, succeed)
    with pytest.raises(KeyboardInterrupt):
        write_replacing(target, fail)
    assert target.read_text() == "first"
    assert list(target.parent.iterdir()) == [target]


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    plain, target = tmp_path / "plain", tmp_path / "target"
    plain.touch()
    write_replacing(target, Path.touch)
    assert target.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("replacing", [copy_replacing, link_replacing])
@pytest.mark.parametrize("links", [True, False])
def test_a_copy_takes_the_place_of_what_was_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    replacing: Callable[[Path, Path], None],
    links: bool,
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("new")
    target.write_text("old")
    replacing(source, target)
    assert target.read_text() == "new"
    assert sorted(tmp_path.iterdir()) == [source, target]
    write_replacing(source, Path.touch)
    assert target.read_text() == "new"  # a file is replaced, never written into


def test_a_copy_is_a_file_of_its_own(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("mine")
    copy_replacing(source, target)
    target.write_text("yours")
    assert source.read_text() == "mine"
