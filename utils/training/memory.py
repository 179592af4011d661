"""GPU memory of a training step: a trial of the largest step, and the batch size that fits."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from models.detector import Detector
from models.loss import DetectionLoss
from utils.datasets.batch_loader import BatchShape
from utils.errors import UserError
from utils.options.train_options import AUTO_BATCH, TrainOptions
from utils.runs.run import Run
from utils.runtime.device import GIGABYTE, Precision
from utils.runtime.distributed import Distributed
from utils.training.engine import MAX_RESIZE, TrainContext, resized_side
from utils.training.state import TrainingState

log = logging.getLogger("yolo")

TRIED_BATCHES = (1, 2, 4, 8, 16)
"""Images per process at which the memory of a step is measured."""
MAX_USED_FRACTION = 0.8
LATER_COPIES = 4
"""Of the weights, not allocated when the memory is measured: at most two optimizer buffers, the
model that is validated, and the mean of --average. The model that is measured stands for the EMA.
"""
BOXES_PER_IMAGE = 16


def trial_step(
    model: Detector, loss: DetectionLoss, precision: Precision, shape: BatchShape
) -> None:
    """Compute the gradients of black images with some boxes, and discard them.

    Only batch-norm statistics change. The model is in training mode. With synchronized batch norm
    or a loss for partial batches, all processes must call this together.
    """
    device = next(model.parameters()).device
    pixels = torch.zeros(shape.images, 3, shape.height, shape.width, device=device)
    targets = torch.tensor([0, 0, 0.5, 0.5, 0.1, 0.1]).repeat(shape.images, 1)
    targets[:, 0] = torch.arange(shape.images)
    with precision.autocast():
        raw = model(pixels.contiguous(memory_format=torch.channels_last))
    total = loss(raw, targets.repeat(BOXES_PER_IMAGE, 1)).total
    # Unlike `backward`, this keeps the gradients that a resumed run has accumulated.
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.autograd.grad(total, trained, allow_unused=True)


def try_largest_size(state: TrainingState, context: TrainContext, largest: BatchShape) -> None:
    """Try the largest size of `--multi-scale`, and leave no trace.

    So a run that needs too much memory fails at once, and not when this size comes up. All
    processes must call this together. `largest` is the largest batch of this process, not resized.
    """
    if not context.multi_scale:
        return
    sides = [resized_side(side, MAX_RESIZE, context.stride) for side in largest[1:]]
    was_training = state.model.training
    state.model.train()
    context.statistics.snapshot()
    shape = BatchShape(largest.images, *sides)
    trial_step(state.model, context.loss, context.precision, shape)
    context.statistics.restore()
    state.model.train(was_training)


def check_batch_size(options: TrainOptions, device: torch.device) -> None:
    """Check that the device is a CUDA GPU if the batch size is to be measured.

    Raises:
        UserError: if it is not.
    """
    if options.batch_size == AUTO_BATCH and device.type != "cuda":
        raise UserError(
            f"--batch-size {AUTO_BATCH} measures the memory of a CUDA GPU, but the device is "
            f"{device.type}; give a number, such as --batch-size {TrainOptions.batch_size}."
        )


def with_batch_size(
    run: Run,
    model: Detector,
    loss: DetectionLoss,
    precision: Precision,
    image_size: int,
    images: int,
    distributed: Distributed,
) -> Run:
    """Return the run with its batch size, measured now if it is `AUTO_BATCH`.

    All processes must call this together. The model stays as it is. The batch is the largest whose
    step uses at most 80 % of the free memory of every GPU, and at most all `images`.

    Raises:
        UserError: a single image needs more.
    """
    if run.options.batch_size != AUTO_BATCH:
        return run
    side = image_size
    if run.options.multi_scale:
        side = resized_side(side, MAX_RESIZE, model.max_stride)
    own = -distributed.all_reduce_max(-_measured_batch(model, loss, precision, side))
    if own == 0:
        raise UserError(
            f"--batch-size {AUTO_BATCH}: a single image needs more than {MAX_USED_FRACTION:.0%} of "
            "the free GPU memory; use a smaller --imgsz."
        )
    batch_size = max(min(own * distributed.world_size, images), distributed.world_size)
    log.info("AutoBatch: --batch-size %d, of at most %d images.", batch_size, images)
    return replace(run, options=replace(run.options, batch_size=batch_size))


def _measured_batch(model: Detector, loss: DetectionLoss, precision: Precision, side: int) -> int:
    """Return the images per step that this process has memory for; 0 if there are none."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        twin = Detector(model.spec)  # without synchronized batch norm; it may fail in one process
    for own, other in zip(twin.parameters(), model.parameters(), strict=True):
        own.requires_grad_(other.requires_grad)
    twin = twin.to(device).to(memory_format=torch.channels_last).train()
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    used: dict[int, int] = {}
    for images in TRIED_BATCHES:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            trial_step(twin, loss, precision, BatchShape(images, side, side))
        except torch.OutOfMemoryError:
            break
        used[images] = torch.cuda.max_memory_reserved(device)
    del twin
    torch.cuda.empty_cache()
    later = LATER_COPIES * sum(p.numel() * p.element_size() for p in model.parameters())
    measured = ", ".join(f"{count}: {size / GIGABYTE:.2f}" for count, size in used.items())
    log.info("AutoBatch: %.2f GB are free; GB by images: %s", free / GIGABYTE, measured)
    return largest_batch(used, MAX_USED_FRACTION * free - later)


def largest_batch(used: Mapping[int, int], budget: float) -> int:
    """Return the largest batch that fits into `budget` bytes, by a line through the measurements.

    `used` has the bytes by the number of images, without the batches that did not fit.
    """
    fitting = max((images for images, size in used.items() if size <= budget), default=0)
    if fitting == 0 or len(used) == 1:
        return fitting
    slope, start = np.polyfit([*used], [*used.values()], 1)
    if slope <= 0:
        return fitting
    too_large = [images for images in TRIED_BATCHES if images not in used]
    return max(min([int((budget - start) / slope), *(n - 1 for n in too_large)]), fitting)
