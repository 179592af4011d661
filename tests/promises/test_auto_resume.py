"""One command line starts a run, resumes it, extends it once, and then ends at once."""

from pathlib import Path

import pytest

from tests.checkpoints import read_checkpoint
from tests.promises.test_resume import KilledError, killed_after, same_run
from tests.toy import toy_arguments
from train import train
from utils.errors import UserError
from utils.options.parser import parse_request
from utils.solver.schedule import Plan
from utils.training.recorder import RunRecorder


def command(folder: Path, name: str, more: str = "") -> list[str]:
    return toy_arguments(folder, f"--epochs 2 --auto-resume --name {name} {more}")


def plan_of(run: Path) -> Plan:
    return Plan.from_dict(read_checkpoint(run / "weights" / "last.pt")["plan"])


def test_repeated_command_ends_like_a_run_that_was_not_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "yolo")
    extend = "--extend-epochs 2 --lr-continuation hold"
    whole = train(parse_request(command(tmp_path, "whole", extend)))
    assert (plan_of(whole).total_epochs, len(plan_of(whole).seams)) == (4, 1)

    again = command(tmp_path, "again", extend)
    run = tmp_path / "runs" / "again"
    killed_after(1, monkeypatch, again)  # in the run itself
    killed_after(2, monkeypatch, again)  # when it has ended
    killed_after(3, monkeypatch, again)  # in the extension
    assert train(parse_request(again)) == run
    assert same_run(whole, run) == []

    before = (run / "weights" / "last.pt").read_bytes()
    assert train(parse_request(again)) == run
    assert (run / "weights" / "last.pt").read_bytes() == before
    assert f"{run} is complete: 4 epochs." in caplog.text
    assert [folder.name for folder in sorted((tmp_path / "runs").iterdir())] == ["again", "whole"]


def test_run_that_was_killed_before_its_first_checkpoint_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "save_on_begin", killed)
        with pytest.raises(KilledError):
            train(parse_request(command(tmp_path, "first")))
    run = train(parse_request(command(tmp_path, "first")))
    assert run == tmp_path / "runs" / "first"
    assert read_checkpoint(run / "weights" / "last.pt")["closed"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--auto-resume"], "--auto-resume needs --name; add --name NAME"),
        (
            ["--auto-resume", "--name", "a", "--resume", "a"],
            "--resume cannot be combined with --au",
        ),
        (
            ["--auto-resume", "--name", "a", "--stop-after", "3"],
            "--stop-after cannot be combined with --auto-resume; omit one",
        ),
        (
            ["--auto-resume", "--name", "a", "--finish-epochs", "3"],
            "--finish-epochs cannot be combined with --auto-resume; omit one",
        ),
        (
            ["--auto-resume", "--name", "a", "--peak", "1", "--rewarm-epochs", "1"],
            "--peak needs --extend-epochs; add --extend-epochs X",
        ),
    ],
)
def test_contradictions_are_errors(more: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_request(more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--epochs 3", r"--epochs 3 differs from the 2 epochs"),
        ("--batch-size 5", r"--batch-size 5 differs from the run's 4"),
        (
            "--extend-epochs 2",
            r"was extended already \(1 epochs with rebase\); .* use --resume .*a",
        ),
        ("--extend-epochs 1 --lr-continuation hold", r"--auto-resume extends a run once"),
    ],
)
def test_command_that_changed_after_the_end_is_an_error(
    finished: Path, more: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(parse_request(command(finished.parents[1], "a", more)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that was extended by one."""
    folder = tmp_path_factory.mktemp("auto")
    return train(parse_request(command(folder, "a", "--extend-epochs 1")))
