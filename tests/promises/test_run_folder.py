"""Nothing in a run folder is lost to a second process or to an older checkpoint."""

import shutil
from pathlib import Path

import pytest

from tests.checkpoints import read_checkpoint
from tests.toy import toy_arguments
from tests.utils.runs.test_lock import owner_of_lock
from train import train
from utils.errors import UserError
from utils.options.parser import parse_request
from utils.runs.folder import create_run_folder
from utils.runs.run import open_run
from utils.runs.start import open_folder, set_up_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch that was extended by one, in place."""
    folder = train(parse_request(toy_arguments(tmp_path_factory.mktemp("folder"), "--epochs 1")))
    return train(parse_request(["--resume", str(folder), "--extend-epochs", "1", "--noplots"]))


def resume(path: Path, *more: str) -> Path:
    return train(parse_request(["--resume", str(path), "--noplots", *more]))


def test_run_that_is_being_trained_is_refused(run: Path) -> None:
    before = (run / "weights" / "last.pt").read_bytes()
    with owner_of_lock(run), pytest.raises(UserError, match=f"{run} is being trained by process"):
        resume(run, "--extend-epochs", "1")
    assert (run / "weights" / "last.pt").read_bytes() == before


def test_new_run_into_a_folder_that_is_being_trained_deletes_nothing(run: Path) -> None:
    arguments = toy_arguments(run.parent.parent, "--epochs 1 --exist-ok")
    with owner_of_lock(run), pytest.raises(UserError, match="is being trained by process"):
        train(parse_request(arguments))
    assert (run / "weights" / "seam_1.pt").is_file()


def test_copied_checkpoint_is_not_resumed_over_its_continuation(run: Path, tmp_path: Path) -> None:
    lone = Path(shutil.copy(run / "weights" / "seam_1.pt", tmp_path / "last.pt"))
    assert resume(lone, "--extend-epochs", "1") == tmp_path
    newer = tmp_path / "weights" / "last.pt"
    before = newer.read_bytes()
    with pytest.raises(UserError, match=rf"{newer} is further on .* --resume {newer}"):
        resume(lone, "--extend-epochs", "1")
    assert newer.read_bytes() == before


def test_earlier_checkpoint_is_not_branched_over_its_own_run(run: Path) -> None:
    own = ("--project", str(run.parent), "--name", run.name, "--exist-ok")
    before = (run / "weights" / "last.pt").read_bytes()
    with pytest.raises(UserError, match=r"last\.pt is further on .* branch off with --name NAME"):
        resume(run / "weights" / "seam_1.pt", "--extend-epochs", "1", *own)
    assert (run / "weights" / "last.pt").read_bytes() == before


def test_checkpoint_that_another_process_replaced_is_noticed(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    last = folder / "weights" / "last.pt"
    opened = open_run(parse_request(["--resume", str(folder), "--extend-epochs", "1"]))
    resume(folder, "--extend-epochs", "1")
    with pytest.raises(UserError, match=f"{last} is further on"):
        set_up_folder(opened, open_folder(opened))
    assert read_checkpoint(last)["position"]["epoch"] == 3


def test_two_runs_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = Path.mkdir

    def overtaken(folder: Path, *args: object, **kwargs: object) -> None:
        """Create the folder a moment after another process has created it."""
        if folder == tmp_path / "exp":
            create(folder, exist_ok=True)
        create(folder, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", overtaken)
    assert create_run_folder(tmp_path, "exp", exist_ok=False) == tmp_path / "exp2"
