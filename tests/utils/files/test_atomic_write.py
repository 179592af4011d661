import errno
import os
import shutil
import stat
import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.files.atomic_write import atomic_copy, atomic_link, atomic_write, remove_temporary_files


def test_file_is_replaced_completely_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "x.npz"

    def succeed(part: Path) -> None:
        part.write_text("first")

    def fail(part: Path) -> None:
        assert part.suffix == ".npz"
        part.write_text("half")
        raise KeyboardInterrupt

    atomic_write(target, succeed)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(target, fail)
    assert target.read_text() == "first"
    assert list(target.parent.iterdir()) == [target]


def test_new_file_has_the_default_permissions(tmp_path: Path) -> None:
    plain, target = tmp_path / "plain", tmp_path / "target"
    plain.touch()
    atomic_write(target, Path.touch)
    assert target.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("replacing", [atomic_copy, atomic_link])
@pytest.mark.parametrize("links", [True, False])
def test_copy_and_link_replace_the_target(
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
    atomic_write(source, Path.touch)
    assert target.read_text() == "new"  # files are replaced, not overwritten


def test_copy_is_independent_of_the_source(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("mine")
    atomic_copy(source, target)
    target.write_text("yours")
    assert source.read_text() == "mine"


def write_new(part: Path) -> None:
    part.write_text("new")


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "No space left on device \\(an existing file is unchanged\\); free disk"),
        (errno.EDQUOT, "free disk space, then resume or run again."),
        (errno.EROFS, "Read-only file system .* is unchanged.; make its folder writable."),
        (errno.EACCES, "Permission denied .* is unchanged.; make its folder writable."),
        (errno.EFBIG, "use a file system that supports files of this size."),
        (errno.EIO, "is unchanged.; choose another folder."),
    ],
)
@pytest.mark.parametrize("where", ["making", "writing", "flushing", "renaming"])
def test_write_errors_keep_the_old_file_and_name_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int, sentence: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    target = tmp_path / "results.csv"
    target.write_text("old")
    with monkeypatch.context() as patch:
        if where == "making":
            patch.setattr(Path, "touch", fail)
        elif where == "flushing":
            patch.setattr(os, "fsync", fail)
        elif where == "renaming":
            patch.setattr(Path, "replace", fail)
        with pytest.raises(UserError, match=f"cannot write .*results.csv: .*{sentence}") as refusal:
            atomic_write(target, fail if where == "writing" else write_new)
    assert isinstance(refusal.value, OSError)  # so callers can continue without the file
    assert refusal.value.errno == number
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/x: File exists"):
        atomic_write(tmp_path / "file" / "x", write_new)
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot write .*folder: Is a directory"):
        atomic_write(tmp_path / "folder", write_new)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file", tmp_path / "folder"]


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route"), ConnectionResetError(104, "reset"), TimeoutError()]
)
def test_network_errors_are_not_converted(tmp_path: Path, error: OSError) -> None:
    def download(part: Path) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        atomic_write(tmp_path / "x", download)
    assert not isinstance(raised.value, UserError)
    assert list(tmp_path.iterdir()) == []


def test_folder_flush_errors_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network drives cannot flush folders."""
    fsync = os.fsync

    def flush(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    target = tmp_path / "x"
    monkeypatch.setattr(os, "fsync", flush)
    atomic_write(target, write_new)
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_order_of_write_flush_and_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    fsync, replace = os.fsync, Path.replace

    def flush(handle: int) -> None:
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        done.append("flush folder" if folder else "flush file")
        fsync(handle)

    def rename(part: Path, target: Path) -> Path:
        done.append("rename")
        return replace(part, target)

    def write(part: Path) -> None:
        done.append("write")
        part.write_text("new")

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", rename)
    atomic_write(tmp_path / "x", write)
    assert done == ["write", "flush file", "rename", "flush folder"]


def test_linking_twice_leaves_no_temporary_file(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("same")
    for _ in range(2):
        atomic_link(source, target)
    assert target.samefile(source)
    assert sorted(tmp_path.iterdir()) == [source, target]


def test_concurrent_writers_use_different_temporary_files(tmp_path: Path) -> None:
    parts = []

    def outer(part: Path) -> None:
        parts.append(part)
        atomic_write(tmp_path / "x.csv", parts.append)

    atomic_write(tmp_path / "x.csv", outer)
    assert len(set(parts)) == 2
    assert {part.suffix for part in parts} == {".csv"}


def test_temporary_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    class KilledError(BaseException):
        pass

    def die(part: Path) -> None:
        part.write_text("half")
        shutil.copyfile(
            part, tmp_path / f"kept{part.name}"
        )  # as if the process was killed before the cleanup
        (tmp_path / f"kept{part.name}").rename(tmp_path / part.name.replace("results", "seams"))
        raise KilledError

    (tmp_path / ".hidden.csv").write_text("mine")
    with pytest.raises(KilledError):
        atomic_write(tmp_path / "results.csv", die)
    assert len(list(tmp_path.iterdir())) == 2
    remove_temporary_files(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [".hidden.csv"]
