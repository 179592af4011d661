import os
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.runs.folder import (
    create_run_folder,
    delete_run_files,
    latest_checkpoint,
    name_within,
    resolve_checkpoint,
    run_folder_of,
)

RUN_FILES = {
    *("weights/last.pt", "weights/last_prev.pt", "weights/best.pt", "weights/.last.x1y2.pt"),
    *("weights/seam_300.pt", "weights/epoch9.pt", "opt.yaml", "hyp.yaml", "results.csv"),
    *("results.png", "seams.json", "metrics.json", "lr_map.png", "lr_plan.png", "lr_plan.json"),
    *("labels.jpg", "labels_correlogram.jpg", "train_batch0.jpg"),
    *("val_batch2_labels.jpg", "val_batch2_pred.jpg", "images_0123456789ab.npz"),
    *("confusion_matrix.png", "PR_curve.png", "F1_curve.png", "P_curve.png", "R_curve.png"),
    "events.out.tfevents.1700000000.host.1.0",
}
OTHER = {
    *("weights/seam_x.pt", "weights/mine.pt", "weights/last.pt.bak", "weights/deeper/last.pt"),
    *("last.pt", "data.yaml", "results.csv.bak", "my_results.csv", "lr_map_old.png"),
    *("train_batch.jpg", "notes.txt", "deeper/results.csv"),
}


def checkpoint(folder: Path, time: int = 0) -> Path:
    file = folder / "weights" / "last.pt"
    file.parent.mkdir(parents=True)
    file.touch()
    os.utime(file, (time, time))
    return file


def test_existing_run_folder_gets_a_number(tmp_path: Path) -> None:
    names = [create_run_folder(tmp_path, "exp", exist_ok=False).name for _ in range(3)]
    assert names == ["exp", "exp2", "exp3"]
    assert create_run_folder(tmp_path, "exp", exist_ok=True).name == "exp"


def test_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot create the folder .*file/exp"):
        create_run_folder(tmp_path / "file", "exp", exist_ok=False)


@pytest.mark.parametrize(
    ("recorded", "name"),
    [
        *(("exp", "exp"), ("a/b", "b"), ("../../../x", "x"), ("/etc/x", "x"), ("..\\..\\x", "x")),
        *(("..", "exp"), ("a/..", "exp"), ("", "exp"), ("/", "exp"), ("a/", "a"), ("C:\\x", "x")),
    ],
)
def test_recorded_name_stays_within_the_project(recorded: str, name: str) -> None:
    assert name_within(recorded) == name


def test_only_files_of_a_run_are_deleted(tmp_path: Path) -> None:
    for name in (*RUN_FILES, *OTHER):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    delete_run_files(tmp_path)
    left = {f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob("*") if f.is_file()}
    assert left == OTHER


def test_previous_checkpoint_replaces_a_missing_last(tmp_path: Path) -> None:
    last = checkpoint(tmp_path / "a")
    previous = last.with_name("last_prev.pt")
    previous.touch()
    assert resolve_checkpoint(tmp_path / "a") == last
    last.unlink()
    assert resolve_checkpoint(tmp_path / "a") == previous
    assert resolve_checkpoint(last.parent) == previous


def test_latest_checkpoint_is_the_most_recently_written(tmp_path: Path) -> None:
    checkpoint(tmp_path / "a", time=20)
    latest = checkpoint(tmp_path / "b", time=30)
    checkpoint(tmp_path / "c", time=10)
    assert latest_checkpoint(tmp_path) == latest
    with pytest.raises(UserError, match=r"empty contains no weights/last\.pt to resume"):
        latest_checkpoint(tmp_path / "empty")


def test_run_folder_resolves_to_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = checkpoint(tmp_path / "a")
    assert resolve_checkpoint(tmp_path / "a") == file
    assert resolve_checkpoint(file) == file
    assert run_folder_of(file) == (tmp_path / "a").resolve()
    assert run_folder_of(tmp_path / "x.pt") == tmp_path.resolve()
    monkeypatch.chdir(tmp_path)
    assert run_folder_of(file) == Path("a")  # relative to the current folder
    assert run_folder_of(Path("x.pt")) == tmp_path.resolve()
    with pytest.raises(UserError, match=r"contains no weights/last\.pt"):
        resolve_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"none\.pt does not exist"):
        resolve_checkpoint(tmp_path / "none.pt")
