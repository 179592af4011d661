import itertools
import sys

import pytest

from utils.runtime.progress import Progress


@pytest.fixture
def minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which 25 s pass between two readings."""
    ticks = itertools.count(0, 25)
    monkeypatch.setattr("utils.runtime.progress.time.monotonic", lambda: float(next(ticks)))


@pytest.mark.usefixtures("minutes")
def test_log_file_gets_a_line_a_minute(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO", "yolo")
    progress = Progress(range(8), 10, "Epoch", initial=2)
    for item in progress:
        progress.describe(f"loss {item}")
    assert caplog.messages == ["loss 2  5/10", "loss 5  8/10"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_terminal_or_a_variable_of_tqdm_gets_a_bar(
    terminal: bool,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO", "yolo")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    if not terminal:
        monkeypatch.setenv("TQDM_MININTERVAL", "0")
    progress = Progress(iter("abc"), 3, "Title")
    seen = []
    for item in progress:
        seen.append(item)
        progress.describe(item)
    assert seen == ["a", "b", "c"]
    assert "c: 100%" in capsys.readouterr().err
    assert caplog.messages == []


def test_disabled_progress_shows_nothing(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "yolo")
    progress = Progress([1, 2], 2, "Title", enabled=False)
    assert list(progress) == [1, 2]
    progress.describe("more")
    assert capsys.readouterr().err == ""
    assert caplog.messages == []
