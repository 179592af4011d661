"""Measures what saving costs: the size of a checkpoint, and how long it stalls training.

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
    # A script starts with its own folder on sys.path; imports need the repository root instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import add_common_options, compare
from benchmarks.timing import MEGABYTE, MILLISECONDS, Measure, Measurements
from utils.options.script import OptionParser, run_script
from utils.solver.optimizers import OPTIMIZERS

ALWAYS = ("--weights", "", "--noplots")
"""Options of every run that is measured: from scratch, without plots."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this program's options; the defaults are those of `make demo`."""
    parser = OptionParser(
        prog="python benchmarks/checkpoint.py",
        description="Train with the options of `make demo`, one epoch per round, and measure what "
        "saving costs.",
    )
    add = parser.add_argument
    add("--data", default="streets.yaml", help="data-set file (default: streets.yaml)")
    add(
        "--hyp", default="hyp.streets.yaml", help="hyper-parameter file (default: hyp.streets.yaml)"
    )
    add("--cfg", default="yolov5n.yaml", help="model file (default: yolov5n.yaml)")
    add("--optimizer", choices=OPTIMIZERS, default="AdamW", help="optimizer (default: AdamW)")
    add("--imgsz", type=int, default=320, help="image size in pixels (default: 320)")
    add("--batch-size", type=int, default=8, help="batch size (default: 8)")
    add("--workers", type=int, default=2, help="loader processes (default: 2)")
    add("--device", default="", help="device, as for train.py (default: first GPU, else cpu)")
    add_common_options(parser, rounds=3, against="--optimizer SGD")
    return parser


def main() -> None:
    """Measure the variants of the command line."""
    with tempfile.TemporaryDirectory(prefix="checkpoints-") as folder:
        compare(build_parser(), partial(prepare, folder=Path(folder)))


def train_options(args: argparse.Namespace) -> list[str]:
    """Return the options of train.py for a variant."""
    names = ("data", "hyp", "cfg", "optimizer", "imgsz", "batch_size", "workers", "device")
    given = {f"--{name.replace('_', '-')}": str(getattr(args, name)) for name in names}
    given |= {"--nominal-batch-size": given["--batch-size"]}
    given |= {"--epochs": str(args.rounds + args.warm_up)}
    return [*ALWAYS, *(word for option in given.items() for word in option)]


def prepare(args: argparse.Namespace, folder: Path) -> Measure:
    """Build a training run; a round is one epoch with validation.

    Args:
        args: options of the variant.
        folder: an existing folder; the run's files go into a new folder inside it.

    Raises:
        UserError: an option, the data set or the model is invalid.
    """
    import train
    from utils.checkpoint.store import load_checkpoint
    from utils.options.parser import parse_request
    from utils.runs.run import open_run
    from utils.runtime.background import BackgroundWorker
    from utils.runtime.device import select_device
    from utils.runtime.distributed import SINGLE_PROCESS
    from utils.runtime.signals import SignalHandler
    from utils.training.engine import Observers, finish_epoch, train_epoch
    from utils.training.loggers import build_loggers
    from utils.training.recorder import RunRecorder
    from utils.training.validation import Validator

    run = open_run(parse_request(train_options(args)))
    training = train.build(run, SINGLE_PROCESS, select_device(run.options.device))
    plan, state, options = training.plan, training.state, training.run.options
    background = BackgroundWorker()
    run_folder = Path(tempfile.mkdtemp(dir=folder))
    recorder = RunRecorder(run_folder, plan, training.config, options, SINGLE_PROCESS, background)
    loader = training.loaders.train
    loggers = build_loggers(run_folder, plan, SINGLE_PROCESS, background, loader.waiting)
    recorder.save_on_begin(state, training.run)
    loggers.begin(state)
    validator = Validator(training.evaluator, plan, options, SINGLE_PROCESS, SignalHandler())
    observers = Observers(
        validate=validator.evaluate_epoch,
        on_batch=lambda *_: None,
        on_step=(recorder.save_on_step,),
        on_epoch=(recorder.save_on_epoch, loggers.epoch),
    )

    def measure() -> Measurements:
        background.wait()
        times = [time.perf_counter()]
        losses = train_epoch(state, training.context, loader, observers)
        finish_epoch(state, plan, losses, observers.validate(state), options.patience)
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
