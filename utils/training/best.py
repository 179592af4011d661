"""The best weights of a run whose validation changes: measured again, so that epochs compare."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from utils.checkpoint.format import Config
from utils.checkpoint.store import read_checkpoint, save_checkpoint
from utils.history import fitness
from utils.runs.run import Run
from utils.training.state import NO_EPOCH, TrainingState, deploy_checkpoint
from utils.training.validation import NOT_VALIDATED, ValidationResult, Validator

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
        best: the file best.pt; gets the new fitness too.
        validator: evaluates the weights.
    """
    point = run.resume_point
    if point is None or point.ended or state.best_epoch < 0:
        return
    changed = validation_changes(point.checkpoint["config"], config)
    if not changed:
        return
    found = _measure(state, best, validator).ema
    before, epoch = state.best_fitness, state.best_epoch
    if found is None:
        state.replace_best(float("-inf"), NO_EPOCH)
        log.warning("The validation changed (%s); the next epochs determine a new best.", changed)
        return
    state.replace_best(fitness(found.map50, found.map50_95), epoch)
    if validator.distributed.is_main:
        _write_fitness(best, state.best_fitness)
    log.info(
        "The validation changed (%s): the fitness of the best weights, of epoch %d, is now %.5g, "
        "not %.5g.",
        *(changed, epoch, state.best_fitness, before),
    )


def validation_changes(old: Config, new: Config) -> str:
    """What differs in the validation of two configurations of a run; empty if nothing does."""
    changed = [
        f"--{name} {old['options'][name]} → {new['options'][name]}"
        for name in ("imgsz",)
        if old["options"][name] != new["options"][name]
    ]
    before, after = old.get("data", {}), new["data"]
    # Older checkpoints have no digest of the validation images alone.
    digest = "val content" if "val content" in before else "content"
    if before.get(digest, after[digest]) != after[digest]:
        changed.append("other images or labels")
    return ", ".join(changed)


def _measure(state: TrainingState, best: Path, validator: Validator) -> ValidationResult:
    def on_main() -> ValidationResult:
        model = copy.deepcopy(state.ema.model)
        model.load_state_dict(_weights(best))
        return ValidationResult(validator.evaluate_model(model).evaluation, None)

    return NOT_VALIDATED if validator.options.noval else validator.evaluate_on_main(on_main)


def _weights(best: Path) -> Mapping[str, Tensor]:
    checkpoint = read_checkpoint(best)
    return (
        checkpoint["ema"]["weights"] if checkpoint["kind"] == "training" else checkpoint["weights"]
    )


def _write_fitness(best: Path, measured: float) -> None:
    checkpoint = read_checkpoint(best)
    stripped = deploy_checkpoint(checkpoint) if checkpoint["kind"] == "training" else checkpoint
    stripped["fitness"] = measured
    save_checkpoint(stripped, best)
