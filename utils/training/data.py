"""The data of a run: class names, the indices of its images, and the loaders over them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import DataLoader

from utils.datasets.description import (
    DatasetDescription,
    check_obtainable,
    ensure_available,
    load_description,
)
from utils.datasets.index import Index, build_index
from utils.datasets.loader import Shard, TrainLoader, build_eval_loader, build_train_loader
from utils.datasets.rect_batches import round_up_to_stride
from utils.evaluation.evaluate import evaluated_names
from utils.runs.run import Run
from utils.runtime.distributed import Distributed

log = logging.getLogger("yolo")

DIGEST_LENGTH = 12  # hexadecimal digits: 48 bits tell two states of one data set apart
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

    def facts(self, file: str) -> dict[str, str | int]:
        """What a checkpoint says of the data, so that a change of them is noticed later."""
        return {
            "file": file,
            "train images": len(self.train),
            "train boxes": len(self.train.boxes),
            "val images": len(self.val),
            "val boxes": len(self.val.boxes),
            "content": content_digest(self.train, self.val),
        }

    def loaders(self, run: Run, image_size: int, stride: int, distributed: Distributed) -> Loaders:
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
            shard=Shard(distributed.rank, distributed.world_size),
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


def content_digest(*splits: Index) -> str:
    """A few digits of the SHA-256 over names, sizes and labels of the images of some splits.

    Neither the place nor the order of the files counts, nor their times; nor does a pixel, which
    would cost minutes to read. Image names are taken from the folder that all of a split lie in.
    """
    digest = hashlib.sha256()
    for split in splits:
        paths = list(split.paths)
        shared = os.path.commonprefix(paths)  # noqa: RUF071 -- what follows its last / is cut off
        start = len(shared.rpartition(os.sep)[0])
        names = [path[start:].replace(os.sep, "/") for path in paths]
        for i in sorted(range(len(names)), key=names.__getitem__):
            boxes = np.ascontiguousarray(split.labels(i), "<f4")
            height, width = split.sizes[i]
            digest.update(f"{names[i]} {height} {width} {len(boxes)}\n".encode())
            digest.update(boxes.tobytes())
            if split.ignored is not None:
                digest.update(np.ascontiguousarray(split.regions(i), "<f4").tobytes())
        digest.update(b"\n")
    return digest.hexdigest()[:DIGEST_LENGTH]


def describe_data(run: Run) -> DatasetDescription:
    """Read the data-set file of a run; cheap, so that a wrong name is told at once.

    Raises:
        UserError: it is not there or refused, has other classes than the run was trained on, or
            its data must be got by hand.
    """
    description = load_description(run.options.data)
    run.require_names(evaluated_names(description.names, single_class=run.options.single_cls))
    check_obtainable(description)
    return description


def build_training_data(run: Run, description: DatasetDescription) -> TrainingData:
    """Fetch or make the data set of a run if need be, and check it.

    Raises:
        UserError: it is not there and cannot be had, or its files are refused.
    """
    names = evaluated_names(description.names, single_class=run.options.single_cls)
    ensure_available(description)

    def index(split: Sequence[Path]) -> Index:
        return build_index(
            split, names, single_class=run.options.single_cls, workers=run.options.workers
        )

    return TrainingData(names, index(description.split("train")), index(description.split("val")))


def training_size(wanted: int, stride: int) -> int:
    """The image size to train at: whole strides, and two of them at least.

    Batch norm cannot learn from a single image whose coarsest map is a single cell.
    """
    size = max(round_up_to_stride(wanted, stride), 2 * stride)
    if size != wanted:
        log.warning(
            "--imgsz %d must be a multiple of the stride %d: %d it is.", wanted, stride, size
        )
    return size
