import logging
import subprocess
import sys

import pytest

from tests.paths import ROOT
from utils.errors import UserError
from utils.options.script import OptionParser, run_script


def test_user_error_is_one_sentence_and_exit_code_two(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def main() -> None:
        raise UserError("the cup is full; empty it.")

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: the cup is full; empty it.\n"


def test_option_error_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    parser = OptionParser(prog="fill.py")
    parser.add_argument("--cups", type=int)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--cups", "two"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: argument --cups: invalid int value: 'two'; fill.py --help lists the options.\n"
    )


def test_keyboard_interrupt_exits_with_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == 130
    assert "Traceback" not in capsys.readouterr().err


def test_other_exceptions_are_raised() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_script(main)


def test_messages_are_printed_without_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    run_script(lambda: logging.getLogger("yolo").info("%d boxes", 3))
    assert capsys.readouterr().out == "3 boxes\n"


def test_objects_are_frozen_before_the_last_garbage_collection() -> None:
    program = """
import atexit, gc
from utils.options.script import run_script

run_script(lambda: print(len(gc.get_objects()) > 1000))
atexit._run_exitfuncs()
print(len(gc.get_objects()) > 1000)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["True", "False"]
