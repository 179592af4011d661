"""The torch data sets; indexing one returns a whole batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from utils.datasets.augment import (
    IGNORE_CLASS,
    LabeledImage,
    apply_flips,
    apply_hsv_gains,
    apply_mixup,
)
from utils.datasets.augment_params import AugmentParams, MosaicSpec, sample_augment_params
from utils.datasets.image_cache import CHANNELS, ImageStore
from utils.datasets.index import Index
from utils.datasets.labels import BOX_COLUMNS, from_pixels, to_pixels
from utils.datasets.letterbox import letterbox, scaled_size
from utils.datasets.mosaic import Tile, compose, letterbox_layout, mosaic_layout
from utils.errors import UserError
from utils.hyp import Hyp

NO_IGNORE_REGIONS = torch.empty(0, BOX_COLUMNS)
"""`Batch.ignored` of images without ignore regions."""


class Frame(NamedTuple):
    """Source of an image in a batch; `letterbox.boxes_to_original` takes the last three fields."""

    path: str
    original: tuple[int, int]
    """(height, width) of the image in the file, px."""
    ratio: tuple[float, float]
    """(vertical, horizontal) scale factors from the file to the batch."""
    pad: tuple[float, float]
    """(left, top) padding, px."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One network input with its labels."""

    image: np.ndarray
    """uint8 [height, width, 3], RGB; a view into the batch."""
    labels: np.ndarray
    """float32 [k, 5]: class, cx, cy, w, h, normalised to the image."""
    ignored: np.ndarray
    """float32 [r, 4]: cx, cy, w, h of the ignore regions, normalised to the image."""
    frame: Frame


class Batch(NamedTuple):
    """Images of one shape with their boxes and ignore regions."""

    images: Tensor
    """uint8 [B, 3, H, W], RGB, in the channels_last memory format."""
    targets: Tensor
    """float32 [n, 6]: index of the image in the batch, class, cx, cy, w, h, normalised."""
    indices: Tensor
    """int64 [B]: data-set indices of the images. Empty in a process that has no image of this batch
    and gets a placeholder."""
    frames: tuple[Frame, ...]
    ignored: Tensor = NO_IGNORE_REGIONS
    """float32 [m, 5]: index of the image in the batch, cx, cy, w, h of the ignore regions,
    normalised."""


class LoadFailure(NamedTuple):
    """Returned by a worker instead of a batch when a user's file is unusable.

    If the worker raised the error instead, torch would wrap its message into a traceback.
    """

    message: str


class BatchRequest(NamedTuple):
    """Request for one training batch."""

    epoch: int
    indices: list[int]
    """Data-set indices of the images."""
    neighbours: np.ndarray
    """int64: data-set indices from which mosaics sample their other images."""
    is_placeholder: bool = False
    """Whether the batch gets no targets, because this process has no image of it."""
    mosaic: bool = True
    """Whether samples may be mosaics, and so mixup of two mosaics, if `hyp.mosaic` is above 0."""


@dataclass(frozen=True, eq=False)
class TrainDataset(Dataset["Batch | LoadFailure"]):
    """Training samples, augmented. A batch depends only on the seed and the request.

    The `Frame` of a sample names its image. Its ratio is 1 and its pad 0, because augmented boxes
    cannot be mapped back to the original image.
    """

    index: Index
    images: ImageStore
    shapes: np.ndarray
    """[n, 2]: height and width of each image's sample; square if mosaics are used."""
    seed: int
    hyp: Hyp
    """Hyper-parameters with the ranges of the augmentation."""

    def __getitem__(self, request: BatchRequest) -> Batch | LoadFailure:
        """Return the requested batch; all its images must have the same shape."""
        hyp = self.hyp if request.mosaic else replace(self.hyp, mosaic=0.0)

        def sample(i: int, out: np.ndarray) -> Sample:
            return self.sample(request.epoch, i, request.neighbours, out, hyp)

        batch = make_batch(request.indices, _pair(self.shapes[request.indices[0]]), sample)
        if request.is_placeholder and isinstance(batch, Batch):
            return Batch(batch.images, batch.targets[:0], batch.indices[:0], batch.frames)
        return batch

    def sample(
        self, epoch: int, i: int, neighbours: np.ndarray, out: np.ndarray, hyp: Hyp | None = None
    ) -> Sample:
        """Return the sample of image `i`. Its pixels are written to `out`, uint8 [H, W, 3]."""
        hyp = hyp or self.hyp
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, epoch, i]))
        side = max(out.shape[:2])
        params = sample_augment_params(rng, hyp, index=i, neighbours=neighbours, side=side)
        frame = Frame(self.index.paths[i], _pair(self.index.sizes[i]), (1.0, 1.0), (0.0, 0.0))
        return _sample(self._augment(params, out), frame)

    def _augment(self, params: AugmentParams, out: np.ndarray) -> LabeledImage:
        first, *others = params.mosaics
        labelled = self._compose(first, out)
        for spec in others:
            labelled = apply_mixup(labelled, self._compose(spec, np.empty_like(out)), params.blend)
        apply_hsv_gains(labelled.image, params.colour_gains)
        return apply_flips(labelled, up_down=params.flip_up_down, left_right=params.flip_left_right)

    def _compose(self, spec: MosaicSpec, out: np.ndarray) -> LabeledImage:
        tiles = [
            Tile(i, self.images.size(i), _labels_and_regions(self.index, i)) for i in spec.tiles
        ]
        if len(tiles) == 1:
            layout = letterbox_layout(tiles[0], out.shape[:2])
        else:
            layout = mosaic_layout(tiles, spec.centre, max(out.shape[:2]))
        return compose(layout, spec.warp, self.images.load, out)


@dataclass(frozen=True, eq=False)
class EvalDataset(Dataset["Batch | LoadFailure"]):
    """Letterboxed images, with the values needed to map boxes back to the original images."""

    index: Index
    images: ImageStore
    shapes: np.ndarray
    """[n, 2]: height and width to which each image is letterboxed."""

    def __getitem__(self, indices: Sequence[int]) -> Batch | LoadFailure:
        """Return the batch of these data-set indices; all its images must have the same shape."""
        return make_batch(indices, _pair(self.shapes[indices[0]]), self.sample)

    def sample(self, i: int, out: np.ndarray) -> Sample:
        """Return the sample of image `i`. Its pixels are written to `out`, uint8 [H, W, 3]."""
        original = _pair(self.index.sizes[i])
        image = self.images.load(i)
        boxed = letterbox(image, out.shape[:2], scale_up=False)
        out[:] = boxed.image
        inner = scaled_size(image.shape[:2], boxed.ratio[0])
        rows = _labels_and_regions(self.index, i)
        labelled = LabeledImage(out, rows[:, 0], to_pixels(rows, inner, boxed.pad))
        ratio = inner[0] / original[0], inner[1] / original[1]
        frame = Frame(self.index.paths[i], original, ratio, boxed.pad)
        return _sample(labelled, frame)


def make_batch(
    indices: Sequence[int],
    shape: tuple[int, int],
    sample: Callable[[int, np.ndarray], Sample],
) -> Batch | LoadFailure:
    """Build a batch; every sample is written directly into the batch's image tensor.

    In a loader worker the tensor is in shared memory, so the main process receives it without a
    copy. If a sample raises `UserError`, the result is a `LoadFailure`.

    Args:
        indices: data-set indices of the samples.
        shape: (height, width) of the images, px.
        sample: takes a data-set index and the array to write the image to, and returns the sample.
    """
    images = torch.empty((len(indices), *shape, CHANNELS), dtype=torch.uint8)
    if get_worker_info() is not None:
        images.share_memory_()
    try:
        samples = [sample(i, out) for i, out in zip(indices, images.numpy(), strict=True)]
    except UserError as error:
        return LoadFailure(str(error))
    return Batch(
        images=images.permute(0, 3, 1, 2),
        targets=_with_image_index([sample.labels for sample in samples]),
        indices=torch.tensor(indices),
        frames=tuple(sample.frame for sample in samples),
        ignored=_with_image_index([sample.ignored for sample in samples]),
    )


def _with_image_index(parts: Sequence[np.ndarray]) -> Tensor:
    """Concatenate parts [k, c] to rows [n, 1 + c]; the first column is the index of the part."""
    numbers = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    rows = np.concatenate(parts)
    return torch.from_numpy(np.column_stack([numbers.astype(rows.dtype), rows]))


def _labels_and_regions(index: Index, i: int) -> np.ndarray:
    """Return boxes and ignore regions: [k, 5], class or IGNORE_CLASS, cx, cy, w, h, normalised."""
    labels, regions = index.labels(i), index.regions(i)
    if not len(regions):
        return labels
    rows = np.full((len(labels) + len(regions), BOX_COLUMNS), IGNORE_CLASS, np.float32)
    rows[: len(labels)] = labels
    rows[len(labels) :, 1:] = regions
    return rows


def _sample(labelled: LabeledImage, frame: Frame) -> Sample:
    """Convert a labelled image to a sample, separating boxes and ignore regions."""
    rows = from_pixels(labelled.classes, labelled.boxes, labelled.image.shape[:2])
    ignored = rows[:, 0] == IGNORE_CLASS
    return Sample(labelled.image, rows[~ignored], rows[ignored, 1:], frame)


def _pair(row: np.ndarray) -> tuple[int, int]:
    return int(row[0]), int(row[1])
