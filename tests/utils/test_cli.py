import logging

import pytest

from utils.cli import run_script
from utils.errors import UserError


def test_a_user_s_mistake_is_one_sentence_and_exit_code_two(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def main() -> None:
        raise UserError("the cup is full; empty it.")

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: the cup is full; empty it.\n"


def test_an_interrupt_has_the_shell_s_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_of_ours_keeps_its_traceback() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_script(main)


def test_messages_go_bare_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    run_script(lambda: logging.getLogger("yolo").info("%d boxes", 3))
    assert capsys.readouterr().out == "3 boxes\n"
