"""The training loop: step, epoch, run."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from tqdm import tqdm

from models.loss import DetectionLoss
from utils.datasets.dataset import Batch
from utils.datasets.loader import TrainLoader
from utils.errors import UserError
from utils.evaluation.miss_rate import percentages
from utils.history import (
    LOSS_NAMES,
    MISS_RATE_PREFIX,
    RAW_MAP_COLUMN,
    SKIPPED_COLUMN,
    best_epoch_since,
    fitness,
    new_row,
)
from utils.runtime.device import Precision, images_to_device, memory_in_use
from utils.runtime.distributed import Distributed
from utils.runtime.signals import stopped_on_purpose
from utils.solver.guard import check_applied_rates
from utils.solver.param_groups import apply_settings
from utils.solver.schedule import FINISH, Plan
from utils.training.batch_norm import BatchNormStats
from utils.training.state import EpochProgress, TrainingState
from utils.training.validation import ValidationResult, common_maps

log = logging.getLogger("yolo")

DISPLAY_EVERY = 10  # batches; showing the losses synchronizes with the GPU
BAR_FORMAT = "{l_bar}{bar:10}{r_bar}"
SIZE_STREAM = 2  # rng stream of image sizes, separate from those of order and augmentation
MIN_RESIZE, MAX_RESIZE = 0.5, 1.5  # of --multi-scale
MIN_SCALE = 1.0  # an overflow at a larger loss scale is due to the scale, not to the batch


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
    max_gradient_norm: float
    """Gradients are clipped to this norm; 0 disables clipping."""
    max_bad_steps: int
    """Abort after this many consecutive batches with a non-finite loss, or this many consecutive
    optimizer steps with a non-finite gradient."""
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
    """Forward, loss and backward pass; steps optimizer and EMA after enough accumulated batches.

    A batch with a non-finite loss or non-finite batch-norm statistics is skipped: it changes
    neither gradients nor batch-norm statistics.

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
    targets = batch.targets.to(context.device, non_blocking=True)
    context.statistics.snapshot()
    with context.precision.autocast():
        raw = state.model(images)
    ignored = batch.ignored.to(context.device, non_blocking=True)
    losses = context.loss(raw, targets, images=len(batch.indices), ignored=ignored)
    local_losses = torch.stack((losses.box, losses.obj, losses.cls, context.statistics.nonfinite()))
    global_losses = context.distributed.all_reduce_sum(local_losses)
    progress = state.progress
    if torch.isfinite(global_losses).all():
        state.scaler.scale(losses.total).backward()
        context.statistics.average(context.distributed)
        progress.add(global_losses[: len(LOSS_NAMES)])
        state.bad_losses = 0
    else:
        context.statistics.restore()
        progress.skipped += 1
        state.bad_losses += 1
        _report_skipped_step(state.bad_losses, state, context, batch, "loss or batch norm")
    if progress.pending and (last or progress.pending >= settings.accumulate):
        _apply_gradients(state, context, batch)
    state.iteration += 1
    progress.batches += 1


def _apply_gradients(state: TrainingState, context: TrainContext, batch: Batch) -> None:
    """Step optimizer and EMA with the accumulated gradients, if these are finite."""
    context.distributed.all_reduce_gradients(state.model)
    state.scaler.unscale_(state.optimizer)
    trained = [p for p in state.model.parameters() if p.grad is not None]
    norm = get_total_norm([p.grad for p in trained if p.grad is not None])
    if torch.isfinite(norm):
        if context.max_gradient_norm > 0:
            clip_grads_with_norm_(trained, context.max_gradient_norm, norm)
        state.scaler.step(state.optimizer)
        state.ema.update(state.model)
        state.bad_gradients = 0
    elif not state.scaler.is_enabled() or state.scaler.get_scale() <= MIN_SCALE:
        state.progress.skipped += state.progress.pending
        state.bad_gradients += 1
        _report_skipped_step(state.bad_gradients, state, context, batch, "gradient")
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.progress.pending = 0


def _report_skipped_step(
    consecutive: int, state: TrainingState, context: TrainContext, batch: Batch, what: str
) -> None:
    """Log a skipped step.

    Raises:
        UserError: after too many consecutive ones.
    """
    number, epoch = state.progress.batches, state.epoch
    log.warning("Skipped batch %d of epoch %d: its %s is not finite.", number, epoch, what)
    if consecutive >= context.max_bad_steps:
        files = ", ".join(frame.path for frame in batch.frames)
        raise UserError(
            f"{consecutive} consecutive steps had a non-finite {what}, the last with {files}; "
            "check these images and labels, or lower lr0 in the hyp file. No optimizer step used "
            "these batches."
        )


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
    with tqdm(
        batches,
        total=count,
        initial=progress.batches,
        bar_format=BAR_FORMAT,
        disable=not context.distributed.is_main,
    ) as bar:
        for batch in bar:
            observers.on_batch(state.iteration, batch)
            train_step(state, context, batch, last=progress.batches == count - 1)
            number = progress.batches
            if number % DISPLAY_EVERY == 0 or number == count or context.device.type == "cpu":
                line = _progress_line(state, context, batch)
                bar.set_description(line)
            for observer in observers.on_step:
                observer(state)
    if line and not sys.stdout.isatty():
        log.info("%s", line)  # the bar is on standard error, which a log file may lack
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
        if score > state.best_fitness:
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
        best = state.best_epoch
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
