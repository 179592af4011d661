"""The command line of `train.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from utils.errors import UserError
from utils.options.arguments import add_options, options_from
from utils.options.option import flag_of, options_of
from utils.options.script import OptionParser
from utils.options.train_options import Continuation, TrainOptions, TrainRequest

NEED_RESUME = "extend_epochs", "allow_change", "allow_partial_state", "completed_epochs", "schedule"
"""Options that need --resume; the others of a continuation need --extend-epochs, and so both."""


def build_parser() -> argparse.ArgumentParser:
    """The command line of `train.py`; an option that is not given is left out of the result."""
    parser = OptionParser(
        prog="train.py",
        description="Train a YOLOv5 detector, resume a run, or extend one beyond its planned end.",
        argument_default=argparse.SUPPRESS,
    )
    add_options(parser, TrainOptions)
    add_options(parser, Continuation)
    return parser


def parse_request(argv: Sequence[str] | None = None) -> TrainRequest:
    """Read the command line.

    Raises:
        UserError: the options contradict each other.
    """
    given = vars(build_parser().parse_args(argv))
    asked = given.keys() & options_of(Continuation).keys()
    for name in NEED_RESUME:
        if name in asked and "resume" not in asked:
            raise UserError(f"{flag_of(name)} goes on with an existing run: add --resume PATH.")
    shaping = asked - {"resume", *NEED_RESUME}
    if shaping and "extend_epochs" not in asked:
        flag = flag_of(min(shaping))
        raise UserError(f"{flag} needs --extend-epochs: say how many epochs to add.")
    options = options_from(given, TrainOptions)
    request = TrainRequest(options, frozenset(given) - asked, options_from(given, Continuation))
    request.continuation.extension()  # contradictions are refused before any file is read
    return request
