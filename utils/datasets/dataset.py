"""Data sets as torch sees them: a sample for a position, a batch for samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from utils.datasets.augment import (
    IGNORED,
    Picture,
    blended,
    fit,
    flipped,
    mosaic,
    shift_colours,
    warped,
)
from utils.datasets.draws import AugmentRanges, Scene, draw_sample
from utils.datasets.image_store import ImageStore
from utils.datasets.index import Index
from utils.datasets.labels import BOX_COLUMNS, from_pixels, to_pixels
from utils.datasets.letterbox import letterbox, scaled_size
from utils.errors import UserError

NOWHERE = torch.empty(0, BOX_COLUMNS)
"""`Batch.ignored` of images without ignore regions."""


class Frame(NamedTuple):
    """Where an image of a batch came from; `letterbox.boxes_to_original` takes the last three."""

    path: str
    original: tuple[int, int]
    """(height, width) of the file's image, px."""
    ratio: tuple[float, float]
    """(vertical, horizontal) size in the batch over size in the file."""
    pad: tuple[float, float]
    """(left, top) border, px."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One image for the network."""

    image: np.ndarray
    """uint8 [height, width, 3], RGB."""
    labels: np.ndarray
    """float32 [k, 5]: class, cx, cy, w, h, normalised to the image."""
    ignored: np.ndarray
    """float32 [r, 4]: cx, cy, w, h of the ignore regions, normalised to the image."""
    index: int
    """In the data set."""
    frame: Frame


class Batch(NamedTuple):
    """Images of one shape with their boxes and ignore regions."""

    images: Tensor
    """uint8 [B, 3, H, W], RGB, contiguous."""
    targets: Tensor
    """float32 [n, 6]: image in the batch, class, cx, cy, w, h, normalised to H and W."""
    indices: Tensor
    """int64: data-set indices of the images that count; all [B], or none if another process has
    them."""
    frames: tuple[Frame, ...]
    ignored: Tensor = NOWHERE
    """float32 [m, 5]: image in the batch, cx, cy, w, h of the ignore regions, normalised."""


class Failure(NamedTuple):
    """What a worker hands over instead of samples or a batch when the user's files are at fault.

    torch would wrap the error's one sentence into a traceback.
    """

    sentence: str


class SampleSet(Dataset[Sample]):
    """What both kinds of data set have in common."""

    def __getitems__(self, positions: Sequence[Any]) -> list[Sample] | Failure:
        """The samples of a batch, as torch's loader asks for them."""
        try:
            return [self[position] for position in positions]
        except UserError as error:
            return Failure(str(error))


class TrainSet(SampleSet):
    """Augmented samples: a pure function of (seed, epoch, index), whichever process asks.

    The frame of a sample names its image; ratio and pad are 1 and 0, for there is no way back.

    Args:
        index: of the data set.
        images: its images.
        shapes: [n, 2], height and width of each image's sample; squares if there are mosaics.
        seed: of the run.
        ranges: of the augmentation; None for plain letterboxed images.
    """

    def __init__(
        self,
        index: Index,
        images: ImageStore,
        shapes: np.ndarray,
        *,
        seed: int,
        ranges: AugmentRanges | None,
    ) -> None:
        self._index = index
        self._images = images
        self._shapes = shapes
        self._seed = seed
        self._ranges = ranges

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, position: tuple[int, int]) -> Sample:
        """The sample of an (epoch, index) pair."""
        epoch, i = position
        shape = _pair(self._shapes[i])
        if self._ranges is None:
            picture = self._plain(i, shape, scale_up=False)
        else:
            picture = self._augmented(epoch, i, shape, self._ranges)
        frame = Frame(self._index.paths[i], _pair(self._index.sizes[i]), (1.0, 1.0), (0.0, 0.0))
        return _sample(picture, i, frame)

    def _augmented(
        self, epoch: int, i: int, shape: tuple[int, int], ranges: AugmentRanges
    ) -> Picture:
        rng = np.random.default_rng(np.random.SeedSequence([self._seed, epoch, i]))
        draw = draw_sample(rng, ranges, index=i, count=len(self), side=max(shape))
        picture, *others = (self._composed(scene, shape) for scene in draw.scenes)
        for other in others:
            picture = blended(picture, other, draw.blend)
        picture = picture._replace(image=shift_colours(picture.image, draw.colour_gains))
        return flipped(picture, up_down=draw.flip_up_down, left_right=draw.flip_left_right)

    def _composed(self, scene: Scene, shape: tuple[int, int]) -> Picture:
        if len(scene.tiles) == 1:
            picture = self._plain(scene.tiles[0], shape, scale_up=True)
        else:
            images = [self._images.load(tile) for tile in scene.tiles]
            labels = [_marked(self._index, tile) for tile in scene.tiles]
            picture = mosaic(images, labels, scene.centre, max(shape))
        return warped(picture, scene.warp, shape)

    def _plain(self, i: int, shape: tuple[int, int], *, scale_up: bool) -> Picture:
        return fit(self._images.load(i), _marked(self._index, i), shape, scale_up=scale_up)


class EvalSet(SampleSet):
    """Letterboxed images and what it takes to map boxes back to the files' pixels.

    Args:
        index: of the data set.
        images: its images.
        shapes: [n, 2], height and width to which each image is letterboxed.
    """

    def __init__(self, index: Index, images: ImageStore, shapes: np.ndarray) -> None:
        self._index = index
        self._images = images
        self._shapes = shapes

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, i: int) -> Sample:
        """The sample of data-set index `i`."""
        shape, original = _pair(self._shapes[i]), _pair(self._index.sizes[i])
        image = self._images.load(i)
        boxed = letterbox(image, shape, scale_up=False)
        inner = scaled_size(image.shape[:2], boxed.ratio[0])
        rows = _marked(self._index, i)
        picture = Picture(boxed.image, rows[:, 0], to_pixels(rows, inner, boxed.pad))
        ratio = inner[0] / original[0], inner[1] / original[1]
        frame = Frame(self._index.paths[i], original, ratio, boxed.pad)
        return _sample(picture, i, frame)


def collate(samples: list[Sample] | Failure) -> Batch | Failure:
    """Put the samples of a batch together, turning the images from rows of pixels into planes."""
    if isinstance(samples, Failure):
        return samples
    height, width = samples[0].image.shape[:2]
    images = np.empty((len(samples), 3, height, width), np.uint8)
    targets = [np.empty((0, 1 + BOX_COLUMNS), np.float32)]
    ignored = [np.empty((0, BOX_COLUMNS), np.float32)]
    for position, sample in enumerate(samples):
        cv2.split(sample.image, list(images[position]))
        targets.append(np.insert(sample.labels, 0, position, axis=1))
        ignored.append(np.insert(sample.ignored, 0, position, axis=1))
    return Batch(
        images=torch.from_numpy(images),
        targets=torch.from_numpy(np.concatenate(targets)),
        indices=torch.tensor([sample.index for sample in samples]),
        frames=tuple(sample.frame for sample in samples),
        ignored=torch.from_numpy(np.concatenate(ignored)),
    )


def _marked(index: Index, i: int) -> np.ndarray:
    """Boxes and ignore regions of an image: [k, 5], class or IGNORED, cx, cy, w, h, normalised."""
    labels, regions = index.labels(i), index.regions(i)
    return np.concatenate([labels, np.insert(regions, 0, IGNORED, axis=1)])


def _sample(picture: Picture, i: int, frame: Frame) -> Sample:
    """A finished picture of image `i`, its objects and its ignore regions taken apart again."""
    rows = from_pixels(picture.classes, picture.boxes, picture.image.shape[:2])
    ignored = rows[:, 0] == IGNORED
    return Sample(picture.image, rows[~ignored], rows[ignored, 1:], i, frame)


def _pair(row: np.ndarray) -> tuple[int, int]:
    return int(row[0]), int(row[1])
