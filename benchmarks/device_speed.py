"""Speed and memory of training and validation on a device, with and without the loader."""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import torch

import train
from benchmarks.report import Check
from benchmarks.timing import MILLISECONDS, PeakMemory
from utils.evaluation.forward import Stopwatch
from utils.options.parser import parse_request
from utils.runs.run import open_run
from utils.runtime.distributed import SINGLE_PROCESS
from utils.training.engine import train_step

SYNCHRONIZES = "synchronizing CUDA operation"
"""Part of the warning of `torch.cuda.set_sync_debug_mode`."""


def measure_model(
    options: Sequence[str], size: int, device: torch.device, batches: int, seconds: float
) -> list[Check]:
    """Measure a model; halves the batch while it is too large for the memory of the device.

    Args:
        options: options of train.py for the model.
        size: images per batch at first.
        device: where to compute.
        batches: maximum number of batches per epoch.
        seconds: minimum duration of a measurement; at least one epoch.
    """
    while size:
        gc.collect()  # of what was measured before
        torch.cuda.empty_cache()
        try:
            return _measure_batches_of(size, options, device, batches, seconds)
        except torch.OutOfMemoryError:
            size //= 2
    return [Check("speed", None, note="one image does not fit into the memory")]


def _measure_batches_of(
    size: int, options: Sequence[str], device: torch.device, batches: int, seconds: float
) -> list[Check]:
    run = open_run(parse_request([*options, "--batch-size", str(size)]))
    training = train.build(run, SINGLE_PROCESS, device)
    state, context, loader = training.state, training.context, training.loaders.train
    state.model.train()
    batch = next(loader.batches(0))
    per_image = 0.0  # ms

    def step() -> int:
        train_step(state, context, batch, last=True)
        return len(batch.images)

    def epoch(*, training: bool) -> int:
        images = 0
        for loaded in islice(loader.batches(0), batches):
            if training:
                train_step(state, context, loaded, last=True)
            images += len(loaded.images)
        return images

    def validate() -> int:
        nonlocal per_image
        evaluation = training.evaluator(state.ema.model).evaluation
        per_image = sum(evaluation.speed_ms)
        return evaluation.images

    memory = PeakMemory(device)
    found = {"training, images/s": rate(step, device, seconds)}
    found["training with its loader, images/s"] = rate(
        lambda: epoch(training=True), device, seconds
    )
    found["training, peak MB"] = memory.megabytes()
    found["training loader alone, images/s"] = rate(lambda: epoch(training=False), device, seconds)
    torch.cuda.empty_cache()
    memory = PeakMemory(device)
    found["validation with loader and metrics, images/s"] = rate(validate, device, seconds)
    found["validation, images/s"] = MILLISECONDS / per_image
    found["validation, peak MB"] = memory.megabytes()
    how = f"batch {size}, {context.precision.name}; validation {training.evaluator.precision}"
    checks = [Check(name, value, note=how) for name, value in found.items()]
    return [*checks, synchronizations(step, device)]


def rate(work: Callable[[], int], device: torch.device, seconds: float) -> float:
    """Return images per second of work that returns its number of images, after one warm-up."""
    work()
    watch = Stopwatch(device)
    images = 0
    while not images or watch.seconds < seconds:
        with watch:
            images += work()
    return images / watch.seconds


def synchronizations(step: Callable[[], object], device: torch.device) -> Check:
    """Count how often the CPU waits for the GPU in a step; the note names the lines of code."""
    title = "synchronizations per training step"
    if device.type != "cuda":
        return Check(title, None, note="needs a GPU")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught if SYNCHRONIZES in str(w.message)]
    lines = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in waits)
    note = ", ".join(f"{line} ({count})" for line, count in lines.most_common())
    return Check(title, len(waits), note=note)
