import logging
import subprocess
import sys

import pytest

from tests.paths import ROOT
from utils.errors import UserError
from utils.options.script import OptionParser, run_script


def test_a_user_s_mistake_is_one_sentence_and_exit_code_two(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def main() -> None:
        raise UserError("the cup is full; empty it.")

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: the cup is full; empty it.\n"


def test_a_mistake_in_the_options_is_one_sentence_too(capsys: pytest.CaptureFixture[str]) -> None:
    parser = OptionParser(prog="fill.py")
    parser.add_argument("--cups", type=int)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--cups", "two"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: argument --cups: invalid int value: 'two'; fill.py --help lists the options.\n"
    )


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


def test_no_object_is_left_for_the_last_search_for_garbage() -> None:
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
