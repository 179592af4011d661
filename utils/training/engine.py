"""The training loop: step, epoch, run."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.loss import DetectionLoss
from utils.datasets.dataset import Batch
from utils.datasets.loader import TrainLoader
from utils.datasets.prefetch import prefetched
from utils.evaluation.miss_rate import percentages
from utils.history import (
    LOSS_NAMES,
    MISS_RATE_PREFIX,
    RAW_MAP_COLUMN,
    SKIPPED_COLUMN,
    best_epoch_since,
    first_epoch_with,
    fitness,
    new_row,
)
from utils.runtime.device import (
    HostCopy,
    Precision,
    images_to_device,
    memory_in_use,
    to_device,
    tuned_convolutions,
)
from utils.runtime.distributed import Distributed
from utils.runtime.progress import Progress
from utils.runtime.signals import stopped_on_purpose
from utils.solver.guard import check_applied_rates
from utils.solver.param_groups import apply_settings
from utils.solver.schedule import FINISH, Plan
from utils.training.batch_norm import BatchNormStats
from utils.training.state import TrainingState
from utils.training.step_outcome import EpochProgress, StepOutcome, StepSource
from utils.training.validation import ValidationResult, common_maps

log = logging.getLogger("yolo")

DISPLAY_EVERY = 10  # batches; showing the losses synchronizes with the GPU
SIZE_STREAM = 2  # rng stream of image sizes, separate from those of order and augmentation
MIN_RESIZE, MAX_RESIZE = 0.5, 1.5  # of --multi-scale
NORM_EPS = 1e-6  # as in torch's clip_grad_norm_


@dataclass(frozen=True)
class TrainContext:
    """The settings of the training step; constant for the whole process."""

    plan: Plan
    loss: DetectionLoss
    precision: Precision
    device: torch.device
    distributed: Distributed
    statistics: BatchNormStats
    """The batch-norm statistics of the trained model."""
    seed: int
    stride: int
    multi_scale: bool
    fixed_shapes: bool
    """Whether all batches have the same shape, except for the last one of an epoch."""
    max_gradient_norm: float
    """Gradients are clipped to this norm; 0 disables clipping."""
    max_bad_steps: int
    """Abort after this many consecutive batches with a non-finite loss, or this many consecutive
    optimizer steps with a non-finite gradient."""
    votes: Callable[[], Tensor]
    """What this process says about stopping; see `SignalHandler.votes`."""
    average: int = 0
    """Number of the last planned epochs whose weights are averaged."""


@dataclass(frozen=True)
class Observers:
    """Callbacks of the training loop; none of them changes the weights."""

    validate: Callable[[TrainingState], ValidationResult]
    """Evaluates the state after each epoch; the result decides on the best epoch and early stop."""
    on_batch: Callable[[int, Batch], None]
    """Called with the iteration and the batch before each training step."""
    on_step: Sequence[Callable[[TrainingState], None]]
    """Called with the state after each batch."""
    on_epoch: Sequence[Callable[[TrainingState], None]]
    """Called with the state after each completed epoch, to save and log it."""


def train_step(state: TrainingState, context: TrainContext, batch: Batch, *, last: bool) -> None:
    """Forward, loss and backward pass; steps the optimizer after enough accumulated batches.

    A batch with a non-finite loss or non-finite batch-norm statistics is skipped: it changes
    neither gradients nor batch-norm statistics. If every batch is a step, this is decided on the
    device: the host reads the outcome after it has launched the next forward pass, and EMA and
    counters follow then, see `TrainingState.settle`.

    Args:
        state: changed in place.
        context: settings of the step.
        batch: with several processes, the images of this one.
        last: whether this is the last batch of the epoch. Accumulated gradients are always applied
            there, so that no gradients have to be saved between epochs.

    Raises:
        UserError: after too many consecutive non-finite batches.
    """
    settings = context.plan.settings(state.epoch, state.iteration)
    apply_settings(state.optimizer, settings)
    # Multi-scale images are resized in fp32 and converted afterwards, so they are rounded once.
    dtype = torch.float32 if context.multi_scale else context.precision.dtype
    images = images_to_device(batch.images, context.device, dtype)
    if context.multi_scale:
        images = resized(
            images, context.stride, [context.seed, state.epoch, state.iteration, SIZE_STREAM]
        )
    statistics, progress = context.statistics, state.progress
    statistics.snapshot()
    with context.precision.autocast():
        raw = state.model(images)
    state.settle(statistics.saved)  # the step before this one
    losses = context.loss(raw, batch.targets, len(batch.indices), batch.ignored)
    local = torch.stack((losses.box, losses.obj, losses.cls, statistics.nonfinite()))
    votes = to_device(context.votes(), context.device)
    measured = context.distributed.all_reduce_sum(torch.cat((local, votes)))
    finite = torch.isfinite(measured[: len(local)]).all()

    files = tuple(frame.path for frame in batch.frames)
    source = StepSource(progress.batches, state.epoch, files, context.max_bad_steps)
    is_step = last or progress.pending + 1 >= settings.accumulate
    # Accumulated gradients of earlier batches must be protected from those of a bad one.
    is_checked_late = is_step and not progress.pending
    good = is_checked_late or state.check_loss(measured, source)
    with state.gradients.summed(context.distributed) if is_step else nullcontext():
        if good:
            state.scaler.scale(losses.total).backward()
            progress.pending += 1
    if good:
        statistics.average(context.distributed)
    if is_checked_late or not good:
        statistics.restore(~finite)
    if is_step:
        known_good = torch.ones_like(finite)
        usable = finite if is_checked_late else known_good
        _apply_gradients(state, context, measured, usable, source, is_loss_new=is_checked_late)
    state.iteration += 1
    progress.batches += 1


def _apply_gradients(
    state: TrainingState,
    context: TrainContext,
    measured: Tensor,
    usable: Tensor,
    source: StepSource,
    *,
    is_loss_new: bool,
) -> None:
    """Step the optimizer with the accumulated gradients, if these are usable and finite.

    On a CPU or CUDA GPU nothing here waits for the device; `state.settle` reads the outcome.
    """
    gradients, optimizer = state.gradients, state.optimizer
    state.scaler.unscale_(optimizer)
    norm = torch.linalg.vector_norm(gradients.flat)
    if context.max_gradient_norm > 0:
        gradients.flat.mul_((context.max_gradient_norm / (norm + NORM_EPS)).clamp(max=1))
    is_finite = torch.isfinite(norm)
    if optimizer.defaults["fused"]:  # it skips the step if `found_inf` is 1
        optimizer.found_inf = 1 - (usable & is_finite).float()  # type: ignore[attr-defined]
        optimizer.grad_scale = None  # type: ignore[attr-defined] # already unscaled
        optimizer.step()
    elif bool(usable & is_finite):
        optimizer.step()
    scale = state.scaler.scale(torch.ones_like(norm))
    state.scaler.update()
    gradients.flat.zero_()
    checks = torch.stack((usable.float(), is_finite.float(), scale))
    values = torch.cat((measured[: len(LOSS_NAMES)], checks, measured[len(LOSS_NAMES) + 1 :]))
    state.unsettled = StepOutcome(
        HostCopy(values), is_loss_new, applied=state.progress.pending, source=source
    )
    state.progress.pending = 0


def resized(images: Tensor, stride: int, seed: list[int]) -> Tensor:
    """Resize a batch by a random factor from 0.5 to 1.5.

    Args:
        images: [B, 3, H, W].
        stride: the new height and width are multiples of it, at least `2 * stride`.
        seed: of the random factor.
    """
    factor = np.random.default_rng(seed).uniform(MIN_RESIZE, MAX_RESIZE)
    shape = [resized_side(length, factor, stride) for length in images.shape[2:]]
    if shape == list(images.shape[2:]):
        return images
    return F.interpolate(images, size=shape, mode="bilinear", align_corners=False)


def resized_side(length: int, factor: float, stride: int) -> int:
    """Return a side of resized images, px: a multiple of the stride, at least `2 * stride`."""
    return max(round(length * factor / stride), 2) * stride


def train_epoch(
    state: TrainingState, context: TrainContext, loader: TrainLoader, observers: Observers
) -> list[float]:
    """Train the remaining batches of the current epoch.

    Returns:
        The mean box, objectness and class loss of all batches of the epoch.
    """
    state.model.train()
    progress = state.progress
    if progress.batches:
        # After a resume no rate is set yet, and there may be no batch left to set one.
        apply_settings(state.optimizer, context.plan.settings(state.epoch, state.iteration - 1))
    count = len(loader)
    log.info("%11s" * 7, "Epoch", "Memory", *LOSS_NAMES, "Instances", "Size")
    mosaic = context.plan.uses_mosaic(state.epoch)
    batches = loader.batches(state.epoch, progress.batches, mosaic=mosaic)
    line = ""
    bar = Progress(
        prefetched(batches, context.device),
        count,
        initial=progress.batches,
        enabled=context.distributed.is_main,
    )
    with tuned_convolutions(context.fixed_shapes):
        for batch in bar:
            observers.on_batch(state.iteration, batch)
            train_step(state, context, batch, last=progress.batches == count - 1)
            number = progress.batches
            if number == count:
                state.settle()
            shown = number % DISPLAY_EVERY == 0 or number == count or context.device.type == "cpu"
            if shown and progress.counted:
                line = _progress_line(state, context, batch)
                bar.describe(line)
            for observer in observers.on_step:
                observer(state)
    if line and not sys.stdout.isatty():
        log.info("%s", line)  # a bar is on standard error, which a log file may lack
    waiting = loader.waiting
    log.info(
        "Trained for %.1f s, of which %.0f %% waiting for data", waiting.total, waiting.percent
    )
    return progress.mean_losses()


def _progress_line(state: TrainingState, context: TrainContext, batch: Batch) -> str:
    columns = (
        f"{state.epoch}/{context.plan.total_epochs - 1}",
        f"{memory_in_use(context.device):.3g}G",
        *(f"{loss:.4g}" for loss in state.progress.mean_losses()),
        len(batch.targets),
        max(batch.images.shape[2:]),
    )
    return "".join(f"{column:>11}" for column in columns)


def fit(
    state: TrainingState,
    context: TrainContext,
    loader: TrainLoader,
    observers: Observers,
    *,
    patience: int,
    stop_after: int | None = None,
) -> None:
    """Train from the position of the state to the end of the plan, or to an early stop.

    That is after `patience` epochs without improvement, or never if it is 0.

    Raises:
        RunInterruptedError: if `stop_after` epochs are completed, and the end is not reached.
    """
    while state.epoch < context.plan.total_epochs and not state.stopped_early:
        if stop_after is not None and state.epoch >= stop_after:
            raise stopped_on_purpose(f"--stop-after {stop_after}")
        losses = train_epoch(state, context, loader, observers)
        result = observers.validate(state)
        # After the validation, which a signal may interrupt, so that no epoch is added twice.
        if context.plan.averaged(context.average, state.epoch + 1):
            state.add_to_average()
        finish_epoch(state, context.plan, losses, result, patience)
        for observer in observers.on_epoch:
            observer(state)


def finish_epoch(
    state: TrainingState,
    plan: Plan,
    losses: list[float],
    result: ValidationResult,
    patience: int,
) -> None:
    """Update the state after an epoch: history, best epoch, position, early stop."""
    evaluation = result.ema
    metrics, val_losses = (math.nan,) * 4, (math.nan,) * 3
    if evaluation is not None:
        metrics = (evaluation.precision, evaluation.recall, evaluation.map50, evaluation.map50_95)
        val_losses = evaluation.losses
        score = fitness(evaluation.map50, evaluation.map50_95)
        if score >= state.best_fitness:  # the newest of equal ones, as while mAP is still 0
            state.replace_best(score, state.epoch)
    rates = [group["lr"] for group in state.optimizer.param_groups]
    row = new_row(
        state.epoch,
        train_losses=losses,
        metrics=metrics,
        val_losses=val_losses,
        rates=rates,
        iteration=state.iteration,
    )
    if result.raw is not None:
        row[RAW_MAP_COLUMN] = result.raw.map50_95
    row |= common_maps(result, state.common_classes(plan.segment_at(state.epoch).start))
    for subset, percent in percentages(result.miss_rates).items():
        row[MISS_RATE_PREFIX + subset] = math.nan if percent is None else percent
    if state.progress.skipped:
        row[SKIPPED_COLUMN] = float(state.progress.skipped)
        log.warning("Epoch %d: skipped %d batches.", state.epoch, state.progress.skipped)
    state.history.append(row)
    check_applied_rates(plan, state.epoch, state.iteration, rates)
    state.epoch += 1
    state.progress = EpochProgress()
    segment = plan.segment_at(state.epoch - 1)
    if evaluation is not None and state.epoch < plan.total_epochs and segment.mode != FINISH:
        best = first_epoch_with(state.best_fitness, state.history, state.comparable_since())
        best = state.best_epoch if best < 0 else best
        if plan.raises_rate(segment):  # mAP drops at first, and climbs for long before a new best
            best = best_epoch_since(state.history, max(segment.start, state.comparable_since()))
        state.stopped_early = should_stop(state.epoch - 1, best, segment.start, patience)
        if state.stopped_early:
            log.info(
                "No improvement since epoch %d: stopping early after %d epochs.",
                *(best, state.epoch),
            )


def should_stop(epoch: int, best_epoch: int, last_seam: int, patience: int) -> bool:
    """Whether the fitness did not improve for `patience` epochs; the count restarts at a seam.

    Args:
        epoch: the epoch just completed, 0-based.
        best_epoch: epoch with the highest fitness so far, or since the last seam where the rate
            rises there; -1 if none was measured.
        last_seam: first epoch of the last extension, 0 if there is none.
        patience: 0 disables the early stop.
    """
    return patience > 0 and epoch - max(best_epoch, last_seam - 1) >= patience
