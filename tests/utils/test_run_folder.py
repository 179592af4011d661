import os
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.run_folder import checkpoint_of, latest_checkpoint, numbered_run_folder, run_folder_of


def checkpoint(folder: Path, time: int = 0) -> Path:
    file = folder / "weights" / "last.pt"
    file.parent.mkdir(parents=True)
    file.touch()
    os.utime(file, (time, time))
    return file


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    names = [numbered_run_folder(tmp_path, "exp", exist_ok=False).name for _ in range(3)]
    assert names == ["exp", "exp2", "exp3"]
    assert numbered_run_folder(tmp_path, "exp", exist_ok=True).name == "exp"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot make the folder .*file/exp"):
        numbered_run_folder(tmp_path / "file", "exp", exist_ok=False)


def test_the_latest_checkpoint_is_the_one_written_last(tmp_path: Path) -> None:
    checkpoint(tmp_path / "a", time=20)
    latest = checkpoint(tmp_path / "b", time=30)
    checkpoint(tmp_path / "c", time=10)
    assert latest_checkpoint(tmp_path) == latest
    with pytest.raises(UserError, match=r"no last\.pt under .*empty"):
        latest_checkpoint(tmp_path / "empty")


def test_a_run_folder_stands_for_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = checkpoint(tmp_path / "a")
    assert checkpoint_of(tmp_path / "a") == file
    assert checkpoint_of(file) == file
    assert run_folder_of(file) == (tmp_path / "a").resolve()
    assert run_folder_of(tmp_path / "x.pt") == tmp_path.resolve()
    monkeypatch.chdir(tmp_path)
    assert run_folder_of(file) == Path("a")  # as the user would write it
    assert run_folder_of(Path("x.pt")) == tmp_path.resolve()
    with pytest.raises(UserError, match=r"holds no weights/last\.pt"):
        checkpoint_of(tmp_path)
    with pytest.raises(UserError, match=r"there is no checkpoint .*none\.pt"):
        checkpoint_of(tmp_path / "none.pt")
