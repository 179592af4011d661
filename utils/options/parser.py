"""The command line of `train.py`."""

from __future__ import annotations

import argparse
from collections.abc import Container, Sequence

from utils.errors import UserError
from utils.options.arguments import add_options, options_from
from utils.options.option import flag_of, options_of
from utils.options.script import OptionParser
from utils.options.train_options import CLASSES, Continuation, TrainOptions, TrainRequest

NEED_RESUME = (
    *("extend_epochs", "finish_epochs", "allow_change", "rename_class"),
    *("allow_partial_state", "completed_epochs", "schedule"),
)
"""Options that need --resume. The other options of `Continuation` need --extend-epochs too, or
--finish-epochs."""
EXTEND_ONLY = (
    *("extend_epochs", "lr_continuation", "slope", "peak"),
    *("rewarm_epochs", "cooldown_epochs"),
)
"""Options that shape an extension but not a finish."""
FINISH_EXAMPLE = " or --finish-epochs K"
EXAMPLES = {"resume": "--resume PATH", "extend_epochs": "--extend-epochs X"}


def build_parser() -> argparse.ArgumentParser:
    """The parser of `train.py`; its result contains only the options on the command line."""
    parser = OptionParser(
        prog="train.py",
        description="Train a YOLOv5 detector, resume a run, or extend it beyond its planned end.",
        argument_default=argparse.SUPPRESS,
    )
    add_options(parser, TrainOptions)
    add_options(parser, Continuation)
    return parser


def parse_request(argv: Sequence[str] | None = None) -> TrainRequest:
    """Parse the command line of `train.py`.

    Raises:
        UserError: if options contradict each other.
    """
    given = vars(build_parser().parse_args(argv))
    continuation = given.keys() & options_of(Continuation).keys()
    if "auto_resume" in continuation:
        _check_auto_resume(given)
        continuation |= {"resume"}  # the run is found by its name
    finishes = "finish_epochs" in continuation
    for name in sorted(continuation - {"resume", "auto_resume"}):
        if finishes and name in EXTEND_ONLY:
            raise UserError(
                f"{flag_of(name)} cannot be combined with --finish-epochs, which only descends "
                "from the present rate; omit one of them."
            )
        needed = ["resume"] if finishes or name in NEED_RESUME else ["resume", "extend_epochs"]
        missing = [option for option in needed if option not in continuation]
        if missing:
            flags = " and ".join(map(flag_of, missing))
            finish = "" if name in EXTEND_ONLY else FINISH_EXAMPLE * ("extend_epochs" in missing)
            examples = " ".join(EXAMPLES[option] for option in missing)
            raise UserError(f"{flag_of(name)} needs {flags}; add {examples}{finish}.")
    if CLASSES in given.get("allow_change", ()):  # other classes have other labels
        given["allow_change"] |= {"data"}
    options = options_from(given, TrainOptions)
    own = frozenset(given) - options_of(Continuation).keys()
    request = TrainRequest(options, own, options_from(given, Continuation))
    extension = request.extension  # reports contradictions before any file is read
    if "close_mosaic" in given and "resume" in given and extension is None:
        raise UserError(
            "--close-mosaic is fixed when a run or an extension starts; omit it, or add "
            "--extend-epochs or --finish-epochs."
        )
    return request


def _check_auto_resume(given: Container[str]) -> None:
    if "name" not in given:
        raise UserError("--auto-resume needs --name; add --name NAME, which names the run.")
    for name in ("resume", "finish_epochs", "plan", "stop_after"):
        if name in given:
            raise UserError(f"{flag_of(name)} cannot be combined with --auto-resume; omit one.")
