"""The best weights of a run whose validation changes: measured again, so that epochs compare."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

from utils.checkpoint.format import VALIDATION_DIGESTS, Config, Validation, validation_of
from utils.checkpoint.store import read_checkpoint
from utils.history import fitness
from utils.runs.run import Run
from utils.training.state import NO_EPOCH, TrainingState, deploy_checkpoint
from utils.training.validation import ValidationResult, Validator

log = logging.getLogger("yolo")


def measure_best_again(
    run: Run, state: TrainingState, config: Config, best: Path, validator: Validator
) -> None:
    """Give the best weights the fitness that they have in a changed validation.

    All processes call this. Without it, patience and best.pt would compare epochs that were
    validated on different images or at different sizes. With `--noval` nothing can be measured,
    and the next validated epoch is the best.

    Args:
        run: the run.
        state: the restored state; its best fitness is replaced.
        config: configuration that the next checkpoints of the run contain.
        best: the file best.pt, which stays as it is.
        validator: evaluates the weights.
    """
    point = run.resume_point
    if point is None or point.ended or state.best_epoch < 0:
        return
    changed = validation_changes(state.best_validation or {}, validation_of(config))
    if not changed:
        return
    if validator.options.noval:
        state.replace_best(float("-inf"), NO_EPOCH)
        log.warning("The validation changed (%s); the next epochs determine a new best.", changed)
        return
    before, epoch, saved_fitness = state.best_fitness, state.best_epoch, None

    def measure() -> ValidationResult:
        nonlocal saved_fitness
        checkpoint = read_checkpoint(best)
        if checkpoint["kind"] == "training":
            checkpoint = deploy_checkpoint(checkpoint)
        saved_fitness = checkpoint["fitness"]
        model = copy.deepcopy(state.ema.model)
        model.load_state_dict(checkpoint["weights"])
        return ValidationResult(validator.evaluate_model(model).evaluation, None)

    found = validator.distributed.on_main(measure).ema
    assert found is not None  # for the type checker
    state.replace_best(fitness(found.map50, found.map50_95), epoch, saved_fitness)
    log.info(
        "The validation changed (%s): the fitness of the best weights, of epoch %d, is now %.5g, "
        "not %.5g.",
        *(changed, epoch, state.best_fitness, before),
    )


def validation_changes(old: Validation, new: Validation) -> str:
    """What differs between two validations; empty if nothing does."""
    changed = [
        f"--{name.replace('_', '-')} {old[name]} → {new[name]}"
        for name in ("imgsz", "batch_size")
        if name in old and old[name] != new[name]
    ]
    digest = next((name for name in VALIDATION_DIGESTS if name in old), None)
    if digest is not None and old[digest] != new.get(digest):
        changed.append("other images or labels")
    return ", ".join(changed)
