"""`--auto-resume`: what one command line does next, from what the run folder contains."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from utils.checkpoint.format import TrainingCheckpoint, newest_checkpoint
from utils.checkpoint.store import load_with_fallback
from utils.errors import UserError
from utils.options.resumed_options import resumed_options
from utils.options.train_options import Continuation, TrainRequest
from utils.solver.schedule import Plan

log = logging.getLogger("yolo")

OF_THE_FOLDER = frozenset({"project", "name"})
"""Options that name the folder of a new run; a resumed run stays in its folder."""


def next_request(request: TrainRequest) -> TrainRequest | None:
    """Return what is left to do of a request: start, resume or extend its run; None if nothing.

    A run is extended once, when it has ended; every seam counts as the extension. The folder is
    `--project`/`--name`, without a number.

    Raises:
        UserError: the checkpoint in the folder is not of a run, or damaged.
    """
    folder = Path(request.options.project) / request.options.name
    file = newest_checkpoint(folder)
    options, given = replace(request.options, exist_ok=True), request.given | {"exist_ok"}
    if file is None:
        return replace(request, options=options, given=given, continuation=Continuation())
    path, checkpoint = load_with_fallback(file)
    if checkpoint["kind"] != "training":
        raise UserError(f"{path} contains only weights; choose another --name.")
    seams = Plan.from_dict(checkpoint["plan"]).seams
    continuation = replace(request.continuation, resume=str(folder))
    if not checkpoint["closed"]:
        continuation = Continuation(
            resume=str(folder), allow_change=request.continuation.allow_change
        )
    elif seams or request.extension is None:
        _check_complete(request, checkpoint, folder)
        log.info("%s is complete: %d epochs.", folder, checkpoint["position"]["epoch"])
        return None
    return replace(request, options=options, given=given - OF_THE_FOLDER, continuation=continuation)


def _check_complete(request: TrainRequest, checkpoint: TrainingCheckpoint, folder: Path) -> None:
    """Check that a complete run is the one that the command line describes.

    Raises:
        UserError: an option differs, or it was extended in another way.
    """
    given = request.given - OF_THE_FOLDER
    resumed_options(replace(request, given=given), checkpoint["config"]["options"])
    wanted = request.extension
    done = [(seam.epochs, seam.mode) for seam in Plan.from_dict(checkpoint["plan"]).seams]
    if wanted is not None and (wanted.epochs, wanted.mode) not in done:
        text = ", ".join(f"{epochs} epochs with {mode}" for epochs, mode in done)
        raise UserError(
            f"{folder} is complete and was extended already ({text}); --auto-resume extends a run "
            f"once, so use --resume {folder} to extend it again."
        )
