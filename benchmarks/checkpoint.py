"""What saving costs a training: the size of a checkpoint, and how long the training stands still.

Usage: python benchmarks/checkpoint.py [--cfg yolov5s.yaml] [--against='--optimizer SGD']
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    # Python looks for modules beside this file; they are imported from the root, as everywhere.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import add_common_options, compare
from benchmarks.timing import MEGABYTE, MILLISECONDS, Measure, Results
from utils.options.script import OptionParser, run_script

ALWAYS = ("--weights", "", "--noplots")
"""Of every training that is measured: from scratch, without pictures."""


def build_parser() -> argparse.ArgumentParser:
    """The options of this program; the defaults are those of `make demo`."""
    parser = OptionParser(
        prog="python benchmarks/checkpoint.py",
        description="Train in the manner of `make demo`, an epoch to a round, and measure what its "
        "saves cost.",
    )
    add = parser.add_argument
    add("--data", default="streets.yaml", help="data-set file (default: streets.yaml)")
    add("--hyp", default="hyp.streets.yaml", help="default: hyp.streets.yaml")
    add("--cfg", default="yolov5n.yaml", help="model file (default: yolov5n.yaml)")
    add("--optimizer", choices=("SGD", "Adam", "AdamW"), default="AdamW", help="default: AdamW")
    add("--imgsz", type=int, default=320, help="pixels (default: 320)")
    add("--batch-size", type=int, default=8, help="images (default: 8)")
    add("--workers", type=int, default=2, help="loader processes (default: 2)")
    add("--device", default="", help="as of train.py (default: first GPU, else cpu)")
    add_common_options(parser, rounds=3, against="--optimizer SGD")
    return parser


def main() -> None:
    """Measure the variants that the command line asks for."""
    with tempfile.TemporaryDirectory(prefix="checkpoints-") as folder:
        compare(build_parser(), partial(prepare, folder=Path(folder)))


def train_options(args: argparse.Namespace) -> list[str]:
    """The command line of train.py for a variant."""
    named = ("data", "hyp", "cfg", "optimizer", "imgsz", "batch_size", "workers", "device")
    given = {f"--{name.replace('_', '-')}": str(getattr(args, name)) for name in named}
    given |= {"--nominal-batch-size": given["--batch-size"]}
    given |= {"--epochs": str(args.rounds + args.warm_up)}
    return [*ALWAYS, *(word for option in given.items() for word in option)]


def prepare(args: argparse.Namespace, folder: Path) -> Measure:
    """Build a training; a round is one of its epochs, with validation.

    Args:
        args: of the variant.
        folder: in which a new one takes the run's files.

    Raises:
        UserError: an option, the data set or the model is refused.
    """
    import train
    from utils.checkpoint.store import load_checkpoint
    from utils.options.parser import parse_request
    from utils.runs.run import open_run
    from utils.runtime.background import BackgroundWorker
    from utils.runtime.device import select_device
    from utils.runtime.distributed import SINGLE_PROCESS
    from utils.runtime.signals import SignalHandler
    from utils.training.engine import Observers, close_epoch, train_epoch
    from utils.training.loggers import build_loggers
    from utils.training.recorder import RunRecorder
    from utils.training.validation import Validator

    run = open_run(parse_request(train_options(args)))
    training = train.build(run, SINGLE_PROCESS, select_device(run.options.device))
    plan, state, options = training.plan, training.state, training.run.options
    background = BackgroundWorker()
    place = Path(tempfile.mkdtemp(dir=folder))
    recorder = RunRecorder(place, plan, training.config, options, SINGLE_PROCESS, background)
    loggers = build_loggers(place, plan, SINGLE_PROCESS, background)
    recorder.save_on_begin(state, training.run)
    loggers.begin(state, None)
    validator = Validator(training.evaluator, plan, options, SINGLE_PROCESS, SignalHandler())
    observers = Observers(
        validate=validator.after_epoch,
        on_batch=lambda *_: None,
        on_step=(recorder.save_on_step,),
        on_epoch=(recorder.save_on_epoch, loggers.epoch),
    )

    def measure() -> Results:
        background.wait()
        times = [time.perf_counter()]
        losses = train_epoch(state, training.context, training.loaders.train, observers)
        close_epoch(state, plan, losses, observers.validate(state), options.patience)
        times.append(time.perf_counter())
        for observer in observers.on_epoch:
            observer(state)
        times.append(time.perf_counter())
        background.wait()
        times.append(time.perf_counter())
        load_checkpoint(recorder.last)
        times.append(time.perf_counter())
        before, stall, writing, loading = (b - a for a, b in itertools.pairwise(times))
        return {
            "epoch, s": before + stall,
            "stall at its end, ms": stall * MILLISECONDS,
            "stall, % of epoch": 100 * stall / (before + stall),
            "writing meanwhile, ms": writing * MILLISECONDS,
            "loading, ms": loading * MILLISECONDS,
            "last.pt, MB": recorder.last.stat().st_size / MEGABYTE,
        }

    return measure


if __name__ == "__main__":
    run_script(main)
