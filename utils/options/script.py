"""How a script starts and ends: logging, exit codes, and one sentence for a user error."""

from __future__ import annotations

import argparse
import atexit
import gc
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from utils.errors import RunInterruptedError, UserError
from utils.options.output import set_up_streams

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, the shell's convention
BUG = 1  # as Python ends after an exception
SECONDS_TO_REPORT = 3


class PrintableFormatter(logging.Formatter):
    """Escapes control characters, which file names may contain."""

    def format(self, record: logging.LogRecord) -> str:
        """The formatted message, safe to print."""
        return printable(super().format(record))


def printable(text: str, keep: str = "\n\t") -> str:
    """Escape every character that is invisible, moves the cursor or cannot be encoded."""
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def printable_line(text: str) -> str:
    """Escape line breaks and tabs too."""
    return printable(text, keep="")


class OptionParser(argparse.ArgumentParser):
    """Reports an error in one sentence, like a `UserError`, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Exit with the message and code 2; called by `argparse`."""
        leave_report_to_first()
        sentence = f"error: {message}; {self.prog} --help lists the options.\n"
        self.exit(USAGE_ERROR, printable(sentence))


def set_up_logging(level: int = logging.INFO) -> None:
    """Write log messages to standard output, without level or time."""
    logger = logging.getLogger("yolo")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(PrintableFormatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


def exit_code_of(error: BaseException) -> int:
    """The exit code of a program that an error ends."""
    if isinstance(error, UserError):
        return USAGE_ERROR
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else BUG


def print_error(error: BaseException) -> None:
    """Print an error to standard error: a sentence if it is no bug, otherwise the traceback."""
    if isinstance(error, UserError):
        sys.stderr.write(printable(f"error: {error}\n"))
    elif isinstance(error, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
    else:
        traceback.print_exception(error)


def run_script(main: Callable[[], None]) -> None:
    """Run the main function of a script; a `UserError` prints one sentence, exit code 2."""
    set_up_streams()
    set_up_logging()
    # At exit the interpreter searches all objects of torch for cyclic garbage, which takes 0.6 s.
    atexit.register(gc.freeze)
    try:
        main()
    except RunInterruptedError as stop:
        raise SystemExit(stop.exit_code) from None
    except (UserError, KeyboardInterrupt) as error:
        leave_report_to_first()
        print_error(error)
        raise SystemExit(exit_code_of(error)) from None


def leave_report_to_first() -> None:
    """With torchrun, let only the first process report an error in the options, which all have."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(SECONDS_TO_REPORT)  # torchrun ends all processes when one has ended
        raise SystemExit(USAGE_ERROR)
