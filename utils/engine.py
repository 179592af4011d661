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
from utils.early_stopping import should_stop
from utils.errors import UserError
from utils.evaluation.miss_rate import percentages
from utils.fitness import fitness
from utils.history import LOSSES, MISS_RATE, RAW_MAP, SKIPPED, new_row
from utils.observers import Figures
from utils.processes import Processes
from utils.runtime import Precision, images_to_device, memory_in_use
from utils.solver.guard import check_applied
from utils.solver.norm_statistics import NormStatistics
from utils.solver.param_groups import apply_settings
from utils.solver.schedule import Plan
from utils.training_state import EpochProgress, TrainingState

log = logging.getLogger("yolo")

DISPLAY_EVERY = 10  # batches between two looks at the losses on a GPU, each of which waits for it
BAR = "{l_bar}{bar:10}{r_bar}"
SIZE_STREAM = 2  # tells the draws of image sizes from those of order and augmentation
NOT_VALIDATED = (float("nan"),) * 4, (float("nan"),) * 3
LEAST_SCALE = 1.0  # of loss scaling: an overflow under a larger one is not the batch's fault


@dataclass(frozen=True)
class Rules:
    """How to train: fixed for the whole process."""

    plan: Plan
    loss: DetectionLoss
    precision: Precision
    device: torch.device
    processes: Processes
    statistics: NormStatistics
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

    validate: Callable[[TrainingState], Figures]
    """Judges the state after each epoch."""
    on_batch: Callable[[int, Batch], None]
    """Sees every batch with its iteration, before it is trained."""
    on_step: Sequence[Callable[[TrainingState], None]]
    """See the state after every batch."""
    on_epoch: Callable[[TrainingState], None]
    """Sees the state after every completed epoch; saves it."""


def train_step(state: TrainingState, rules: Rules, batch: Batch, *, last: bool) -> None:
    """Forward, loss, backward; and, when enough batches are summed, one step of optimizer and EMA.

    A batch whose loss is not finite is left out, running statistics included.

    Args:
        state: weights, optimizer, EMA and position; changed in place.
        rules: how to train.
        batch: images and targets; with several processes, this one's part of them.
        last: whether this is the epoch's last batch. What is summed is always applied there, so
            that the end of an epoch leaves no half-made step to be saved.

    Raises:
        UserError: too many bad batches in a row.
    """
    settings = rules.plan.settings(state.epoch, state.iteration)
    apply_settings(state.optimizer, settings)
    # What is resized is rounded to the format of the forward pass after that, once.
    dtype = torch.float32 if rules.multi_scale else rules.precision.dtype
    images = images_to_device(batch.images, rules.device, dtype)
    if rules.multi_scale:
        images = resized(
            images, rules.stride, [rules.seed, state.epoch, state.iteration, SIZE_STREAM]
        )
    targets = batch.targets.to(rules.device, non_blocking=True)
    rules.statistics.keep()
    with rules.precision.autocast():
        raw = state.model(images)
    ignored = batch.ignored.to(rules.device, non_blocking=True)
    losses = rules.loss(raw, targets, images=len(batch.indices), ignored=ignored)
    own = torch.stack((losses.box, losses.obj, losses.cls, rules.statistics.alarm()))
    parts = rules.processes.total(own)
    progress = state.progress
    if torch.isfinite(parts).all():
        state.scaler.scale(losses.total).backward()
        rules.statistics.average(rules.processes)
        progress.add(parts[: len(LOSSES)])
        state.bad_losses = 0
    else:
        rules.statistics.put_back()
        progress.skipped += 1
        state.bad_losses += 1
        _judge_bad(state.bad_losses, state, rules, batch, "loss or batch norm")
    if progress.pending and (last or progress.pending >= settings.accumulate):
        _apply_gradients(state, rules, batch)
    state.iteration += 1
    progress.batches += 1


def _apply_gradients(state: TrainingState, rules: Rules, batch: Batch) -> None:
    """Step optimizer and EMA by the gradients that are summed, unless they are not finite."""
    rules.processes.total_gradients(state.model)
    state.scaler.unscale_(state.optimizer)
    trained = [p for p in state.model.parameters() if p.grad is not None]
    norm = get_total_norm([p.grad for p in trained if p.grad is not None])
    if torch.isfinite(norm):
        if rules.max_gradient_norm > 0:
            clip_grads_with_norm_(trained, rules.max_gradient_norm, norm)
        state.scaler.step(state.optimizer)
        state.ema.update(state.model)
        state.bad_gradients = 0
    elif not state.scaler.is_enabled() or state.scaler.get_scale() <= LEAST_SCALE:
        state.progress.skipped += state.progress.pending
        state.bad_gradients += 1
        _judge_bad(state.bad_gradients, state, rules, batch, "gradient")
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.progress.pending = 0


def _judge_bad(in_row: int, state: TrainingState, rules: Rules, batch: Batch, what: str) -> None:
    """Tell of a step that is left out; after too many in a row something else must be wrong."""
    log.warning(
        "The %s of batch %d in epoch %d is not finite; it is left out.",
        *(what, state.progress.batches, state.epoch),
    )
    if in_row >= rules.max_bad_steps:
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
    state: TrainingState, rules: Rules, loader: TrainLoader, observers: Observers
) -> list[float]:
    """Train what is left of the epoch that is next.

    Returns:
        The mean box, objectness and class loss of all its batches.
    """
    state.model.train()
    progress = state.progress
    if progress.batches:  # a resumed process has set no rate yet, and may have no batch left to
        apply_settings(state.optimizer, rules.plan.settings(state.epoch, state.iteration - 1))
    count = len(loader)
    log.info("%11s" * 7, "Epoch", "Memory", *LOSSES, "Instances", "Size")
    batches = loader.batches(state.epoch, progress.batches)
    with tqdm(
        batches,
        total=count,
        initial=progress.batches,
        bar_format=BAR,
        disable=not rules.processes.first,
    ) as bar:
        for batch in bar:
            observers.on_batch(state.iteration, batch)
            train_step(state, rules, batch, last=progress.batches == count - 1)
            number = progress.batches
            if number % DISPLAY_EVERY == 0 or number == count or rules.device.type == "cpu":
                bar.set_description(_progress(state, rules, batch))
            for observer in observers.on_step:
                observer(state)
    return progress.mean_losses()


def _progress(state: TrainingState, rules: Rules, batch: Batch) -> str:
    columns = (
        f"{state.epoch}/{rules.plan.total_epochs - 1}",
        f"{memory_in_use(rules.device):.3g}G",
        *(f"{loss:.4g}" for loss in state.progress.mean_losses()),
        len(batch.targets),
        max(batch.images.shape[2:]),
    )
    return "".join(f"{column:>11}" for column in columns)


def fit(
    state: TrainingState, rules: Rules, loader: TrainLoader, observers: Observers, *, patience: int
) -> None:
    """Train from where the state stands to the end of the plan, or until accuracy no longer rises.

    Args:
        state: changed in place.
        rules: how to train; its plan says how far.
        loader: training batches.
        observers: who looks on.
        patience: epochs without gain after which the run stops, 0 for never.
    """
    while state.epoch < rules.plan.total_epochs and not state.stopped_early:
        losses = train_epoch(state, rules, loader, observers)
        close_epoch(state, rules.plan, losses, observers.validate(state), patience)
        observers.on_epoch(state)


def close_epoch(
    state: TrainingState,
    plan: Plan,
    losses: list[float],
    figures: Figures,
    patience: int,
) -> None:
    """Enter a finished epoch into the state: history, best, position, early stop."""
    evaluation = figures.ema
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
    if figures.raw is not None:
        row[RAW_MAP] = figures.raw.map50_95
    for subset, percent in percentages(figures.miss_rates).items():
        row[MISS_RATE + subset] = float("nan") if percent is None else percent
    if state.progress.skipped:
        row[SKIPPED] = float(state.progress.skipped)
        log.warning("Epoch %d left out %d batches.", state.epoch, state.progress.skipped)
    state.history.append(row)
    check_applied(plan, state.epoch, state.iteration, rates)
    state.epoch += 1
    state.progress = EpochProgress()
    if evaluation is not None and state.epoch < plan.total_epochs:
        last_seam = plan.segment_at(state.epoch - 1).start
        state.stopped_early = should_stop(state.epoch - 1, state.best_epoch, last_seam, patience)
    if state.stopped_early:
        log.info(
            "No gain since epoch %d: stopping early after %d epochs.", state.best_epoch, state.epoch
        )
