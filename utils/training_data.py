"""The data of a run: class names, the indices of its images, and the loaders over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch.utils.data import DataLoader

from utils.datasets.description import ensure_available, load_description
from utils.datasets.index import Index, build_index
from utils.datasets.loader import TrainLoader, build_eval_loader, build_train_loader
from utils.run import Run

EVAL_BATCH = 2  # validation keeps no gradients, so it takes twice the images of a training batch


class Loaders(NamedTuple):
    """Batches to train on and batches to validate on."""

    train: TrainLoader
    val: DataLoader


@dataclass(frozen=True)
class TrainingData:
    """What a run is trained and validated on."""

    names: tuple[str, ...]
    train: Index
    val: Index

    def loaders(self, run: Run, image_size: int, stride: int) -> Loaders:
        """The loaders of a run; `image_size` is a multiple of the stride."""
        options = run.options
        train = build_train_loader(
            self.train,
            image_size=image_size,
            batch_size=options.batch_size,
            hyp=run.hyp,
            seed=options.seed,
            workers=options.workers,
            cache=options.cache,
            rect=options.rect,
            stride=stride,
        )
        val = build_eval_loader(
            self.val,
            image_size=image_size,
            batch_size=options.batch_size * EVAL_BATCH,
            workers=options.workers,
            stride=stride,
            cache=options.cache,
        )
        return Loaders(train, val)


def build_training_data(run: Run) -> TrainingData:
    """Find, if need be fetch or make, and check the data set of a run.

    Raises:
        UserError: it is not there and cannot be had, or its files are refused.
    """
    description = load_description(run.options.data)
    names = ("item",) if run.options.single_cls else description.names
    run.require_names(names)
    ensure_available(description)

    def index(split: Sequence[Path]) -> Index:
        return build_index(
            split, names, single_class=run.options.single_cls, workers=run.options.workers
        )

    return TrainingData(names, index(description.split("train")), index(description.split("val")))


def whole_strides(image_size: int, stride: int) -> int:
    """The image size rounded up to a multiple of the stride, as the network needs it."""
    return math.ceil(image_size / stride) * stride
