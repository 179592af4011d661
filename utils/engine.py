"""The training loop: a step, an epoch, a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from models.loss import DetectionLoss
from utils.datasets.dataset import Batch
from utils.datasets.loader import TrainLoader
from utils.early_stopping import should_stop
from utils.fitness import fitness
from utils.history import LOSSES, RAW_MAP, new_row
from utils.observers import Figures
from utils.runtime import Precision, images_to_device, memory_in_use
from utils.solver.guard import check_applied
from utils.solver.param_groups import apply_settings
from utils.solver.schedule import Plan
from utils.training_state import TrainingState

log = logging.getLogger("yolo")

MAX_GRADIENT_NORM = 10.0
DISPLAY_EVERY = 10  # batches between two looks at the losses on a GPU, each of which waits for it
BAR = "{l_bar}{bar:10}{r_bar}"
SIZE_STREAM = 2  # tells the draws of image sizes from those of order and augmentation
NOT_VALIDATED = (float("nan"),) * 4, (float("nan"),) * 3


@dataclass(frozen=True)
class Rules:
    """How to train: fixed for the whole process."""

    plan: Plan
    loss: DetectionLoss
    precision: Precision
    device: torch.device
    seed: int
    stride: int
    multi_scale: bool


def train_step(state: TrainingState, rules: Rules, batch: Batch, *, last: bool) -> Tensor:
    """Forward, loss, backward; and, when enough batches are summed, one step of optimizer and EMA.

    Args:
        state: weights, optimizer, EMA and position; changed in place.
        rules: how to train.
        batch: images and targets.
        last: whether this is the epoch's last batch. What is summed is always applied there, so
            that the end of an epoch leaves no half-made step to be saved.

    Returns:
        Box, objectness and class loss of the batch, detached, [3].
    """
    settings = rules.plan.settings(state.epoch, state.iteration)
    apply_settings(state.optimizer, settings)
    images = images_to_device(batch.images, rules.device)
    if rules.multi_scale:
        images = resized(
            images, rules.stride, [rules.seed, state.epoch, state.iteration, SIZE_STREAM]
        )
    with rules.precision.autocast():
        raw = state.model(images)
    losses = rules.loss(raw, batch.targets.to(rules.device, non_blocking=True))
    state.scaler.scale(losses.total).backward()
    state.pending += 1
    if last or state.pending >= settings.accumulate:
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), MAX_GRADIENT_NORM)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        state.ema.update(state.model)
        state.pending = 0
    state.iteration += 1
    return torch.stack((losses.box, losses.obj, losses.cls)).detach()


def resized(images: Tensor, stride: int, entropy: list[int]) -> Tensor:
    """Scale a batch to a size drawn from half to one and a half of its own, in whole strides."""
    drawn = np.random.default_rng(entropy).uniform(0.5, 1.5)
    shape = [max(round(length * drawn / stride), 2) * stride for length in images.shape[2:]]
    if shape == list(images.shape[2:]):
        return images
    return F.interpolate(images, size=shape, mode="bilinear", align_corners=False)


def train_epoch(
    state: TrainingState, rules: Rules, loader: TrainLoader, on_batch: Callable[[int, Batch], None]
) -> list[float]:
    """Train the epoch that is next; returns its mean box, objectness and class loss."""
    state.model.train()
    state.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros(len(LOSSES), device=rules.device)
    count = len(loader)
    log.info("%11s" * 7, "Epoch", "Memory", *LOSSES, "Instances", "Size")
    with tqdm(loader.batches(state.epoch), total=count, bar_format=BAR) as bar:
        for number, batch in enumerate(bar, start=1):
            on_batch(state.iteration, batch)
            total += train_step(state, rules, batch, last=number == count)
            if number % DISPLAY_EVERY == 0 or number == count or rules.device.type == "cpu":
                bar.set_description(_progress(state, rules, (total / number).tolist(), batch))
    return (total / count).tolist()


def _progress(state: TrainingState, rules: Rules, losses: list[float], batch: Batch) -> str:
    columns = (
        f"{state.epoch}/{rules.plan.total_epochs - 1}",
        f"{memory_in_use(rules.device):.3g}G",
        *(f"{loss:.4g}" for loss in losses),
        len(batch.targets),
        max(batch.images.shape[2:]),
    )
    return "".join(f"{column:>11}" for column in columns)


def fit(
    state: TrainingState,
    rules: Rules,
    loader: TrainLoader,
    *,
    validate: Callable[[TrainingState], Figures],
    patience: int,
    on_batch: Callable[[int, Batch], None],
    on_epoch: Callable[[TrainingState], None],
) -> None:
    """Train from where the state stands to the end of the plan, or until accuracy no longer rises.

    Args:
        state: changed in place.
        rules: how to train; its plan says how far.
        loader: training batches.
        validate: judges the state after each epoch.
        patience: epochs without gain after which the run stops, 0 for never.
        on_batch: sees every batch with its iteration, before it is trained.
        on_epoch: sees the state after every completed epoch; saves it.
    """
    while state.epoch < rules.plan.total_epochs and not state.stopped_early:
        losses = train_epoch(state, rules, loader, on_batch)
        close_epoch(state, rules.plan, losses, validate(state), patience)
        on_epoch(state)


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
    state.history.append(row)
    check_applied(plan, state.epoch, state.iteration, rates)
    state.epoch += 1
    if evaluation is not None and state.epoch < plan.total_epochs:
        last_seam = plan.segment_at(state.epoch - 1).start
        state.stopped_early = should_stop(state.epoch - 1, state.best_epoch, last_seam, patience)
    if state.stopped_early:
        log.info(
            "No gain since epoch %d: stopping early after %d epochs.", state.best_epoch, state.epoch
        )
