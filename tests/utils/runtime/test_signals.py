import signal
import threading
import time

import pytest

from utils.errors import RunInterruptedError
from utils.runtime.signals import SignalHandler

SIGNALS = [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 85)]


@pytest.mark.parametrize(("name", "code"), SIGNALS)
def test_signal_raises_at_the_next_check(name: str, code: int) -> None:
    with SignalHandler() as interrupts:
        interrupts.check()
        interrupts.check_own()
        signal.raise_signal(signal.Signals[name])
        with pytest.raises(RunInterruptedError) as stop:
            interrupts.check()
        assert (stop.value.cause, stop.value.exit_code) == (name, code)
        with pytest.raises(RunInterruptedError):
            interrupts.check_own()


@pytest.mark.parametrize(("torchrun", "code"), [(False, 85), (True, 0)])
def test_time_limit_stops_like_a_signal(
    torchrun: bool, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if torchrun:  # it restarts processes that end with another code than 0
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    interrupts = SignalHandler(deadline=time.monotonic() + 3600)
    interrupts.check()
    interrupts = SignalHandler(deadline=time.monotonic() - 1)
    interrupts.check_own()  # a validation is not stopped
    with pytest.raises(RunInterruptedError) as stop:
        interrupts.check()
    assert (stop.value.cause, stop.value.exit_code) == ("--max-hours", code)


def test_second_ctrl_c_stops_immediately_but_duplicates_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = iter([10.0, 10.2, 12.0])
    monkeypatch.setattr("utils.runtime.signals.time.monotonic", lambda: next(seconds))
    with SignalHandler():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # forwarded by a parent process
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_previous_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with SignalHandler():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_run_started_with_nohup_survives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SignalHandler() as interrupts:
            signal.raise_signal(signal.SIGHUP)
            interrupts.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_install_no_handlers() -> None:
    def enter() -> None:
        with SignalHandler() as interrupts:
            interrupts.check()
            handlers.append(signal.getsignal(signal.SIGTERM))

    handlers = [signal.getsignal(signal.SIGTERM)]
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert len(handlers) == 2
    assert handlers[0] == handlers[1]


def test_ctrl_c_after_another_signal_stops_immediately(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([10.0, 12.0])
    monkeypatch.setattr("utils.runtime.signals.time.monotonic", lambda: next(seconds))
    with SignalHandler():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
