"""Compares exported models with PyTorch on images: largest differences, and time per image."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from data.street_scenes.scene import paint_scene
from utils.datasets.image_files import ImageError, list_images, read_image
from utils.datasets.letterbox import letterbox
from utils.errors import UserError

log = logging.getLogger("yolo")

IMAGES = 7
SEED = 21
"""Of the drawn images; that of the data set streets is 20."""
MAX_PIXEL = 255
MB = 1e6
MS_PER_S = 1e3

Run = Callable[[Tensor], list[Tensor]]
"""Maps a batch of images to the outputs of a model."""


class Difference(NamedTuple):
    """Largest absolute differences between two models."""

    boxes: float
    """Pixels; NaN if the outputs are maps."""
    scores: float
    """Of scores, or of all values of maps."""


class Row(NamedTuple):
    """A row of the table."""

    path: Path
    difference: Difference | None
    """From PyTorch; None if the file was not run, or is that of PyTorch."""
    ms_per_image: float
    """NaN if the file was not run."""


def comparison_images(sources: Sequence[Path], size: tuple[int, int], batch: int) -> list[Tensor]:
    """Return seven images, or more to fill the last batch, as batches ``[batch, 3, H, W]``.

    Args:
        sources: folders or list files of images; drawn street scenes if empty.
        size: (height, width) that the images are letterboxed to, px.
        batch: number of images of a batch.

    Raises:
        UserError: none of the images can be read.
    """
    images: list[np.ndarray] = []
    for path in islice(list_images(sources), IMAGES) if sources else ():
        try:
            images.append(read_image(path))
        except ImageError as error:
            log.warning("%s is skipped: %s.", path, error)
    if sources and not images:
        raise UserError(f"no image of {sources[0]} can be read; give another data set with --data.")
    images = images or [paint_scene(SEED, number).image for number in range(IMAGES)]
    fitted = np.stack([letterbox(image, size).image for image in images])
    pixels = torch.from_numpy(fitted).permute(0, 3, 1, 2).float() / MAX_PIXEL
    count = -(-len(images) // batch) * batch
    return list(pixels[torch.arange(count) % len(images)].split(batch))


@torch.inference_mode()
def torch_run(module: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the outputs of a model with an export head; see `with_export_head`."""
    first = next(module.parameters())
    outputs = module(images.to(first.device, first.dtype))
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def measure(run: Run, batches: Sequence[Tensor]) -> tuple[list[list[Tensor]], float]:
    """Return the outputs for each batch, and the median time of an image in ms."""
    outputs = [[output.float().cpu() for output in run(batch)] for batch in batches]
    spent = []
    for batch in batches:
        start = time.perf_counter()
        run(batch)[0].sum().item()  # waits for a GPU
        spent.append((time.perf_counter() - start) / len(batch))
    return outputs, statistics.median(spent) * MS_PER_S


def difference(
    found: Sequence[Sequence[Tensor]], expected: Sequence[Sequence[Tensor]], heads: str
) -> Difference:
    """Compare the outputs of two models for the same batches.

    Args:
        found: for each batch the outputs.
        expected: outputs of the other model.
        heads: decoded: boxes ``[B, N, 5 + classes]``; nms: detections ``[n, 7]``; otherwise maps.

    Returns:
        The largest differences; infinite if the numbers of boxes differ.
    """
    gaps = [
        _difference(own, other, heads)
        for outputs, others in zip(found, expected, strict=True)
        for own, other in zip(outputs, others, strict=True)
    ]
    return Difference(max(gap.boxes for gap in gaps), max(gap.scores for gap in gaps))


def _difference(own: Tensor, other: Tensor, heads: str) -> Difference:
    if own.shape != other.shape:
        return Difference(math.inf, math.inf)
    if not own.numel():
        return Difference(0.0, 0.0)
    if heads == "nms":
        gaps = (own[:, None] - other).abs()  # [n, n, 7]
        # A detection is compared with the nearest one of the same image and class.
        others = gaps[..., 0].add(gaps[..., 6]) > 0
        gap, nearest = gaps[..., 1:5].amax(2).masked_fill(others, math.inf).min(1)
        return Difference(float(gap.max()), float((own[:, 5] - other[nearest, 5]).abs().max()))
    gaps = (own - other).abs()
    if heads == "decoded":
        return Difference(float(gaps[..., :4].max()), float(gaps[..., 4:].max()))
    return Difference(math.nan, float(gaps.max()))


def log_table(rows: Sequence[Row]) -> None:
    """Log size, differences and speed of each file; warn of differences beyond rounding."""
    log.info("\nLargest differences from PyTorch on %d images, and the time of an image:", IMAGES)
    header = ("File", "Size (MB)", "Boxes (px)", "Scores", "ms/image")
    width = max(len(header[0]), *(len(row.path.name) for row in rows))
    log.info(f"%-{width}s  %9s  %10s  %8s  %8s", *header)
    for path, found, ms in rows:
        files = [path] if path.is_file() else list(path.iterdir())
        size = sum(file.stat().st_size for file in files) / MB
        gap = found or Difference(math.nan, math.nan)
        texts = (f"{gap.boxes:.2g}", f"{gap.scores:.2g}", f"{ms:.1f}")
        shown = ["-" if text == "nan" else text for text in texts]
        log.info(f"%-{width}s  %9.1f  %10s  %8s  %8s", path.name, size, *shown)
