"""What happens when a run stops early: it is saved, and the command to resume it is logged."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from utils.errors import LoadError, RunInterruptedError
from utils.options.option import flag_of
from utils.options.train_options import NOT_INHERITED_NAMES, TrainOptions
from utils.runtime.device import lacking_memory
from utils.runtime.distributed import Distributed
from utils.training.recorder import RunRecorder
from utils.training.state import TrainingState

log = logging.getLogger("yolo")

NOT_REPEATED = {"close_mosaic", "exist_ok"}
"""Options that are not inherited, but have done their work when a run is resumed."""
OLDER_STATE = "Stopped by an error; last.pt has the state that was saved before it."


@contextmanager
def saved_when_stopped(recorder: RunRecorder, state: TrainingState) -> Iterator[None]:
    """Save the state of a run that stops, if it is that of a complete step; raise the error again.

    A lack of memory may stop a run within a step, so it changes no file.
    """
    options, distributed = recorder.options, recorder.distributed
    try:
        yield
    except (RunInterruptedError, LoadError) as stop:  # between two steps
        cause = stop.cause if isinstance(stop, RunInterruptedError) else None
        saved = OLDER_STATE
        if cause or distributed.world_size == 1:  # other processes do not know of an error
            recorder.save(state)
            recorder.background.wait()
            saved = f"Stopped by {cause or 'an error'} after a complete step, and saved."
        log_resume_command(recorder.last, options, distributed, cause, saved)
        raise
    except (RuntimeError, MemoryError, OSError) as error:
        if lacking_memory(error):
            log_resume_command(recorder.last, options, distributed, None, OLDER_STATE)
        raise


def log_resume_command(
    last: Path, options: TrainOptions, distributed: Distributed, cause: str | None, saved: str
) -> None:
    """Log the command that resumes a run.

    It repeats the options that a resumed run does not inherit.

    Args:
        last: the checkpoint of the run.
        options: of the run.
        distributed: the processes of the run.
        cause: the signal or option that stopped it, which is not repeated; None for a failure.
        saved: a sentence on what last.pt contains.
    """
    if not distributed.is_main or not last.is_file():
        return
    program = "python"
    if distributed.world_size > 1:
        machines = distributed.world_size // distributed.local_world_size
        nodes = f"--nnodes {machines} " if machines > 1 else ""
        program = f"torchrun {nodes}--nproc_per_node {distributed.local_world_size}"
    again = []
    for name in sorted(NOT_INHERITED_NAMES - NOT_REPEATED):
        value = getattr(options, name)
        argument = flag_of(name) if value is True else f"{flag_of(name)} {value}"
        if value and argument != cause:
            again.append(argument)
    command = " ".join([program, "train.py --resume", quote(str(last.parents[1])), *again])
    log.info("\n%s To resume: %s", saved, command)
