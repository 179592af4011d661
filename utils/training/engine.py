"""The training loop: a step, an epoch, a run."""

from __future__ import annotations

import logging
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
from utils.history import LOSSES, MISS_RATE, RAW_MAP, SKIPPED, fitness, new_row
from utils.runtime.device import Precision, images_to_device, memory_in_use
from utils.runtime.distributed import Distributed
from utils.solver.guard import check_applied_rates
from utils.solver.param_groups import apply_settings
from utils.solver.schedule import Plan
from utils.training.batch_norm import BatchNormStats
from utils.training.state import EpochProgress, TrainingState
from utils.training.validation import ValidationResult

log = logging.getLogger("yolo")

DISPLAY_EVERY = 10  # batches between two looks at the losses on a GPU, each of which waits for it
BAR = "{l_bar}{bar:10}{r_bar}"
SIZE_STREAM = 2  # tells the draws of image sizes from those of order and augmentation
NOT_VALIDATED = (float("nan"),) * 4, (float("nan"),) * 3
MIN_SCALE = 1.0  # of loss scaling: an overflow under a larger one is not the batch's fault


@dataclass(frozen=True)
class TrainContext:
    """How to train: fixed for the whole process."""

    plan: Plan
    loss: DetectionLoss
    precision: Precision
    device: torch.device
    distributed: Distributed
    statistics: BatchNormStats
    """Of the model that is trained."""
    seed: int
    stride: int
    multi_scale: bool
    max_gradient_norm: float
    """Longer gradients are shortened to it; 0 leaves them as they are."""
    max_bad_steps: int
    """So many in a row end the run."""


@dataclass(frozen=True)
class Observers:
    """Who looks on while a run trains; none of them changes what is trained."""

    validate: Callable[[TrainingState], ValidationResult]
    """Evaluates the state after each epoch."""
    on_batch: Callable[[int, Batch], None]
    """Sees every batch with its iteration, before it is trained."""
    on_step: Sequence[Callable[[TrainingState], None]]
    """See the state after every batch."""
    on_epoch: Sequence[Callable[[TrainingState], None]]
    """See the state after every completed epoch; save and log it."""


def train_step(state: TrainingState, context: TrainContext, batch: Batch, *, last: bool) -> None:
    """Forward, loss, backward; and, when enough batches are summed, one step of optimizer and EMA.

    A batch whose loss is not finite is left out, running statistics included.

    Args:
        state: weights, optimizer, EMA and position; changed in place.
        context: how to train.
        batch: images and targets; with several processes, this one's part of them.
        last: whether this is the epoch's last batch. What is summed is always applied there, so
            that the end of an epoch leaves no half-made step to be saved.

    Raises:
        UserError: too many bad batches in a row.
    """
    settings = context.plan.settings(state.epoch, state.iteration)
    apply_settings(state.optimizer, settings)
    # What is resized is rounded to the format of the forward pass after that, once.
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
    own = torch.stack((losses.box, losses.obj, losses.cls, context.statistics.nonfinite()))
    parts = context.distributed.all_reduce_sum(own)
    progress = state.progress
    if torch.isfinite(parts).all():
        state.scaler.scale(losses.total).backward()
        context.statistics.average(context.distributed)
        progress.add(parts[: len(LOSSES)])
        state.bad_losses = 0
    else:
        context.statistics.restore()
        progress.skipped += 1
        state.bad_losses += 1
        _count_bad_step(state.bad_losses, state, context, batch, "loss or batch norm")
    if progress.pending and (last or progress.pending >= settings.accumulate):
        _apply_gradients(state, context, batch)
    state.iteration += 1
    progress.batches += 1


def _apply_gradients(state: TrainingState, context: TrainContext, batch: Batch) -> None:
    """Step optimizer and EMA by the gradients that are summed, unless they are not finite."""
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
        _count_bad_step(state.bad_gradients, state, context, batch, "gradient")
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.progress.pending = 0


def _count_bad_step(
    in_row: int, state: TrainingState, context: TrainContext, batch: Batch, what: str
) -> None:
    """Log a step that is left out; after too many in a row something else must be wrong."""
    log.warning(
        "The %s of batch %d in epoch %d is not finite; it is left out.",
        *(what, state.progress.batches, state.epoch),
    )
    if in_row >= context.max_bad_steps:
        files = ", ".join(frame.path for frame in batch.frames)
        raise UserError(
            f"{in_row} steps in a row had a {what} that is not finite, the last with {files}; look "
            "at these images and labels, or lower lr0 in the hyp file. None of these steps reached "
            "the weights or last.pt."
        )


def resized(images: Tensor, stride: int, entropy: list[int]) -> Tensor:
    """Scale a batch to a size drawn from half to one and a half of its own, in whole strides."""
    drawn = np.random.default_rng(entropy).uniform(0.5, 1.5)
    shape = [max(round(length * drawn / stride), 2) * stride for length in images.shape[2:]]
    if shape == list(images.shape[2:]):
        return images
    return F.interpolate(images, size=shape, mode="bilinear", align_corners=False)


def train_epoch(
    state: TrainingState, context: TrainContext, loader: TrainLoader, observers: Observers
) -> list[float]:
    """Train what is left of the epoch that is next.

    Returns:
        The mean box, objectness and class loss of all its batches.
    """
    state.model.train()
    progress = state.progress
    if progress.batches:  # a resumed process has set no rate yet, and may have no batch left to
        apply_settings(state.optimizer, context.plan.settings(state.epoch, state.iteration - 1))
    count = len(loader)
    log.info("%11s" * 7, "Epoch", "Memory", *LOSSES, "Instances", "Size")
    batches = loader.batches(state.epoch, progress.batches)
    with tqdm(
        batches,
        total=count,
        initial=progress.batches,
        bar_format=BAR,
        disable=not context.distributed.is_main,
    ) as bar:
        for batch in bar:
            observers.on_batch(state.iteration, batch)
            train_step(state, context, batch, last=progress.batches == count - 1)
            number = progress.batches
            if number % DISPLAY_EVERY == 0 or number == count or context.device.type == "cpu":
                bar.set_description(_progress(state, context, batch))
            for observer in observers.on_step:
                observer(state)
    return progress.mean_losses()


def _progress(state: TrainingState, context: TrainContext, batch: Batch) -> str:
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
) -> None:
    """Train from where the state stands to the end of the plan, or until accuracy no longer rises.

    Args:
        state: changed in place.
        context: how to train; its plan says how far.
        loader: training batches.
        observers: who looks on.
        patience: epochs without gain after which the run stops, 0 for never.
    """
    while state.epoch < context.plan.total_epochs and not state.stopped_early:
        losses = train_epoch(state, context, loader, observers)
        close_epoch(state, context.plan, losses, observers.validate(state), patience)
        for observer in observers.on_epoch:
            observer(state)


def close_epoch(
    state: TrainingState,
    plan: Plan,
    losses: list[float],
    result: ValidationResult,
    patience: int,
) -> None:
    """Enter a finished epoch into the state: history, best, position, early stop."""
    evaluation = result.ema
    metrics, val_losses = NOT_VALIDATED
    if evaluation is not None:
        metrics = (evaluation.precision, evaluation.recall, evaluation.map50, evaluation.map50_95)
        val_losses = evaluation.losses
        score = fitness(evaluation.map50, evaluation.map50_95)
        if score > state.best_fitness:
            state.best_fitness, state.best_epoch = score, state.epoch
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
        row[RAW_MAP] = result.raw.map50_95
    for subset, percent in percentages(result.miss_rates).items():
        row[MISS_RATE + subset] = float("nan") if percent is None else percent
    if state.progress.skipped:
        row[SKIPPED] = float(state.progress.skipped)
    state.history.append(row)
    check_applied_rates(plan, state.epoch, state.iteration, rates)
    state.epoch += 1
    state.progress = EpochProgress()
    if evaluation is not None and state.epoch < plan.total_epochs:
        last_seam = plan.segment_at(state.epoch - 1).start
        state.stopped_early = should_stop(state.epoch - 1, state.best_epoch, last_seam, patience)


def epochs_without_gain(epoch: int, best_epoch: int, last_seam: int) -> int:
    """Epochs trained since the best one; at a seam the patience starts afresh.

    Args:
        epoch: the epoch just completed, 0-based.
        best_epoch: epoch with the highest fitness so far; -1 when none was measured.
        last_seam: first epoch after the most recent extension, 0 if there is none.
    """
    return epoch - max(best_epoch, last_seam - 1)


def should_stop(epoch: int, best_epoch: int, last_seam: int, patience: int) -> bool:
    """Whether `patience` epochs (0: endless) went by without a higher fitness."""
    return patience > 0 and epochs_without_gain(epoch, best_epoch, last_seam) >= patience
