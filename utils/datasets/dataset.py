"""Data sets as torch sees them: a batch for those who ask for one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from utils.datasets.augment import IGNORED, Picture, blended, fit, flipped, shift_colours
from utils.datasets.augment_params import (
    AugmentParams,
    AugmentRanges,
    MosaicSpec,
    sample_augment_params,
)
from utils.datasets.image_cache import CHANNELS, ImageStore
from utils.datasets.index import Index
from utils.datasets.labels import BOX_COLUMNS, from_pixels, to_pixels
from utils.datasets.letterbox import letterbox, scaled_size
from utils.datasets.mosaic import Tile, compose, letterbox_layout, mosaic_layout
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
    """uint8 [height, width, 3], RGB, as it lies in its batch."""
    labels: np.ndarray
    """float32 [k, 5]: class, cx, cy, w, h, normalised to the image."""
    ignored: np.ndarray
    """float32 [r, 4]: cx, cy, w, h of the ignore regions, normalised to the image."""
    frame: Frame


class Batch(NamedTuple):
    """Images of one shape with their boxes and ignore regions."""

    images: Tensor
    """uint8 [B, 3, H, W], RGB, in torch's channels_last format: rows of pixels in memory."""
    targets: Tensor
    """float32 [n, 6]: image in the batch, class, cx, cy, w, h, normalised to H and W."""
    indices: Tensor
    """int64: data-set indices of the images that count; all [B], or none if another process has
    them."""
    frames: tuple[Frame, ...]
    ignored: Tensor = NOWHERE
    """float32 [m, 5]: image in the batch, cx, cy, w, h of the ignore regions, normalised."""


class Failure(NamedTuple):
    """What a worker hands over instead of a batch when the user's files are at fault.

    torch would wrap the error's one sentence into a traceback.
    """

    sentence: str


class BatchRequest(NamedTuple):
    """A batch of training samples to be made."""

    epoch: int
    indices: list[int]
    """Data-set indices of its images."""
    neighbours: np.ndarray
    """int64: data-set indices from which mosaics take their other images."""


class TrainSet(Dataset["Batch | Failure"]):
    """Augmented samples: pure functions of seed and request, whichever process asks.

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

    def __getitem__(self, request: BatchRequest) -> Batch | Failure:
        """The batch that is asked for, whose images have one shape."""

        def sample(i: int, out: np.ndarray) -> Sample:
            return self.sample(request.epoch, i, request.neighbours, out)

        return make_batch(request.indices, _pair(self._shapes[request.indices[0]]), sample)

    def sample(self, epoch: int, i: int, neighbours: np.ndarray, out: np.ndarray) -> Sample:
        """The sample of image `i`; its pixels are written to `out`, uint8 [height, width, 3]."""
        if self._ranges is None:
            boxed = fit(self._images.load(i), self._rows(i), out.shape[:2], scale_up=False)
            out[:] = boxed.image
            picture = boxed._replace(image=out)
        else:
            rng = np.random.default_rng(np.random.SeedSequence([self._seed, epoch, i]))
            side = max(out.shape[:2])
            draw = sample_augment_params(
                rng, self._ranges, index=i, neighbours=neighbours, side=side
            )
            picture = self._augmented(draw, out)
        frame = Frame(self._index.paths[i], _pair(self._index.sizes[i]), (1.0, 1.0), (0.0, 0.0))
        return _sample(picture, frame)

    def _augmented(self, draw: AugmentParams, out: np.ndarray) -> Picture:
        first, *others = draw.scenes
        picture = self._composed(first, out)
        for scene in others:
            picture = blended(picture, self._composed(scene, np.empty_like(out)), draw.blend)
        shift_colours(picture.image, draw.colour_gains)
        return flipped(picture, up_down=draw.flip_up_down, left_right=draw.flip_left_right)

    def _composed(self, scene: MosaicSpec, out: np.ndarray) -> Picture:
        tiles = [Tile(i, self._images.size(i), self._rows(i)) for i in scene.tiles]
        if len(tiles) == 1:
            layout = letterbox_layout(tiles[0], out.shape[:2])
        else:
            layout = mosaic_layout(tiles, scene.centre, max(out.shape[:2]))
        return compose(layout, scene.warp, self._images.load, out)

    def _rows(self, i: int) -> np.ndarray:
        return _marked(self._index, i)


class EvalSet(Dataset["Batch | Failure"]):
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

    def __getitem__(self, indices: Sequence[int]) -> Batch | Failure:
        """The batch of these data-set indices, whose images have one shape."""
        return make_batch(indices, _pair(self._shapes[indices[0]]), self.sample)

    def sample(self, i: int, out: np.ndarray) -> Sample:
        """The sample of image `i`; its pixels are written to `out`, uint8 [height, width, 3]."""
        original = _pair(self._index.sizes[i])
        image = self._images.load(i)
        boxed = letterbox(image, out.shape[:2], scale_up=False)
        out[:] = boxed.image
        inner = scaled_size(image.shape[:2], boxed.ratio[0])
        rows = _marked(self._index, i)
        picture = Picture(out, rows[:, 0], to_pixels(rows, inner, boxed.pad))
        ratio = inner[0] / original[0], inner[1] / original[1]
        frame = Frame(self._index.paths[i], original, ratio, boxed.pad)
        return _sample(picture, frame)


def make_batch(
    indices: Sequence[int],
    shape: tuple[int, int],
    sample: Callable[[int, np.ndarray], Sample],
) -> Batch | Failure:
    """Make the samples of a batch, each in its place.

    In a loader's worker the images are in memory that is shared with the process which waits for
    them, so that they need not be copied there.

    Args:
        indices: of the samples in the data set.
        shape: (height, width), px.
        sample: makes the sample of an index, and writes its image where it is told.
    """
    images = torch.empty((len(indices), *shape, CHANNELS), dtype=torch.uint8)
    if get_worker_info() is not None:
        images.share_memory_()
    try:
        samples = [sample(i, out) for i, out in zip(indices, images.numpy(), strict=True)]
    except UserError as error:
        return Failure(str(error))
    return Batch(
        images=images.permute(0, 3, 1, 2),
        targets=_numbered([sample.labels for sample in samples]),
        indices=torch.tensor(indices),
        frames=tuple(sample.frame for sample in samples),
        ignored=_numbered([sample.ignored for sample in samples]),
    )


def _numbered(parts: Sequence[np.ndarray]) -> Tensor:
    """All rows, float32 [n, 1 + c], each after the number of its part; parts are [k, c]."""
    numbers = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    rows = np.concatenate(parts)
    return torch.from_numpy(np.column_stack([numbers.astype(rows.dtype), rows]))


def _marked(index: Index, i: int) -> np.ndarray:
    """Boxes and ignore regions of an image: [k, 5], class or IGNORED, cx, cy, w, h, normalised."""
    labels, regions = index.labels(i), index.regions(i)
    if not len(regions):
        return labels
    rows = np.full((len(labels) + len(regions), BOX_COLUMNS), IGNORED, np.float32)
    rows[: len(labels)] = labels
    rows[len(labels) :, 1:] = regions
    return rows


def _sample(picture: Picture, frame: Frame) -> Sample:
    """A finished picture, its objects and its ignore regions taken apart again."""
    rows = from_pixels(picture.classes, picture.boxes, picture.image.shape[:2])
    ignored = rows[:, 0] == IGNORED
    return Sample(picture.image, rows[~ignored], rows[ignored, 1:], frame)


def _pair(row: np.ndarray) -> tuple[int, int]:
    return int(row[0]), int(row[1])
