import signal
import threading

import pytest

from utils.errors import RunInterruptedError
from utils.runtime.signals import SignalHandler


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 85)])
def test_a_signal_is_obeyed_when_asked(name: str, code: int) -> None:
    with SignalHandler() as interrupts:
        interrupts.check()
        interrupts.check_own()
        signal.raise_signal(signal.Signals[name])
        with pytest.raises(RunInterruptedError) as stop:
            interrupts.check()
        assert (stop.value.signal, stop.value.exit_code) == (name, code)
        with pytest.raises(RunInterruptedError):
            interrupts.check_own()


def test_a_second_ctrl_c_stops_at_once_but_not_the_same_one_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = iter([10.0, 10.2, 12.0])
    monkeypatch.setattr("utils.runtime.signals.time.monotonic", lambda: next(seconds))
    with SignalHandler():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # passed on by a parent
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_are_given_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with SignalHandler():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_takes_no_signals_over() -> None:
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


def test_ctrl_c_stops_at_once_after_another_signal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([10.0, 12.0])
    monkeypatch.setattr("utils.runtime.signals.time.monotonic", lambda: next(seconds))
    with SignalHandler():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
