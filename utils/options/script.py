"""How a command line program starts and ends: logging, and one sentence for the user's mistakes."""

from __future__ import annotations

import argparse
import atexit
import gc
import logging
import sys
from collections.abc import Callable
from typing import NoReturn

from utils.errors import RunInterruptedError, UserError

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, the shell's convention


UNPRINTABLE = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"
}


class PrintableFormatter(logging.Formatter):
    """Shows control characters, which names of files may hold, instead of obeying them."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, safe to print."""
        return printable(super().format(record))


def printable(text: str) -> str:
    """A text without what a terminal would obey, or could not encode."""
    return text.translate(UNPRINTABLE).encode(errors="backslashreplace").decode()


class OptionParser(argparse.ArgumentParser):
    """Answers a mistake in one sentence, as all others are, and not with the list of options."""

    def error(self, message: str) -> NoReturn:
        """End the program; `argparse` calls this."""
        sentence = f"error: {message}; {self.prog} --help lists the options.\n"
        self.exit(USAGE_ERROR, printable(sentence))


def set_up_logging(level: int = logging.INFO) -> None:
    """Send the program's messages, bare, to standard output."""
    logger = logging.getLogger("yolo")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(PrintableFormatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


def run_script(main: Callable[[], None]) -> None:
    """Run a program's main function; bad input ends it with one sentence and exit code 2."""
    set_up_logging()
    # Before it ends, the interpreter looks for cyclic garbage in all that torch made: 0.6 s.
    atexit.register(gc.freeze)
    try:
        main()
    except UserError as error:
        sys.stderr.write(printable(f"error: {error}\n"))
        raise SystemExit(USAGE_ERROR) from None
    except RunInterruptedError as stop:
        raise SystemExit(stop.exit_code) from None
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        raise SystemExit(INTERRUPTED) from None
