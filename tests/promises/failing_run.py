"""A run of `train.py` in which one process fails in the way that the first argument names."""

import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch

import train
from utils.datasets.dataset import TrainDataset
from utils.errors import UserError
from utils.options.script import run_script
from utils.runtime import signals
from utils.training import engine, summary
from utils.training.state import TrainingState

RANK = int(os.environ["RANK"])
STEP = 4  # in the second epoch: last.pt has the first one


def in_step(fail: Callable[[], None]) -> None:
    step = engine.train_step

    def failing(state: TrainingState, *more: Any, **named: Any) -> None:
        step(state, *more, **named)
        if state.iteration == STEP:
            fail()

    engine.train_step = failing


def out_of_memory() -> None:
    raise torch.OutOfMemoryError("out of memory")


def full_disk() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails with an error
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def two_interrupts() -> None:
    signals.SIGINT_DEBOUNCE_S = -1.0
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


def broken_image() -> None:
    sample = TrainDataset.sample

    def failing(dataset: TrainDataset, epoch: int, *more: Any) -> Any:
        if epoch == 1:
            raise UserError("3.png changed during the run; restore the file and restart.")
        return sample(dataset, epoch, *more)

    setattr(TrainDataset, "sample", failing)  # noqa: B010 -- assigning is an error of types


def interrupted_report() -> None:
    """A signal arrives in the main process while it validates best.pt, and the others wait."""
    load = getattr(summary, "load_model")  # noqa: B009 -- not exported

    def signalled(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return load(*arguments)

    setattr(summary, "load_model", signalled)  # noqa: B010


if __name__ == "__main__":
    case = sys.argv.pop(1)
    if case == "image" and RANK == 1:
        broken_image()
    elif case == "memory" and RANK == 1:
        in_step(out_of_memory)
    elif case == "disk" and RANK == 0:
        in_step(full_disk)
    elif case == "end" and RANK == 0:
        interrupted_report()
    elif case == "interrupts" and RANK == 1:
        in_step(two_interrupts)
    run_script(train.main)
