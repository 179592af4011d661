"""The data of a run: class names, image indices and data loaders."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.datasets.acquire import MissingDataError
from utils.datasets.class_names import retyped_names
from utils.datasets.description import (
    DatasetDescription,
    check_obtainable,
    ensure_available,
    load_description,
)
from utils.datasets.eval_loader import EvalLoader, build_eval_loader
from utils.datasets.index import Index, build_index
from utils.datasets.loader import TrainLoader, build_train_loader
from utils.datasets.locate import DATASETS_VARIABLE
from utils.datasets.rect_batches import round_up_to_stride
from utils.errors import UserError
from utils.evaluation.evaluate import evaluated_names
from utils.runs.run import Run
from utils.runtime.distributed import Distributed

log = logging.getLogger("yolo")

DIGEST_LENGTH = 12  # hexadecimal digits: 48 bits distinguish two states of one data set
MAX_NORM_IMAGES = 10_000  # more images hardly change batch-norm statistics
EVAL_BATCH_FACTOR = 2  # validation stores no gradients, so its batches can be twice as large


class Loaders(NamedTuple):
    """The loaders of training and validation batches."""

    train: TrainLoader
    val: EvalLoader
    letterboxed: EvalLoader | None = None
    """Training images without augmentation, if `--average` needs batch-norm statistics."""


@dataclass(frozen=True)
class TrainingData:
    """The class names of a run, and the indices of its training and validation images."""

    names: tuple[str, ...]
    train: Index
    val: Index
    root: Path = Path()
    """The folder of the data set."""

    def fingerprint(self, file: str) -> dict[str, str | int]:
        """Counts and a digest of the data, saved in checkpoints to detect a later change."""
        return {
            "file": file,
            "folder": str(self.root),
            "train images": len(self.train),
            "train boxes": len(self.train.boxes),
            "val images": len(self.val),
            "val boxes": len(self.val.boxes),
            "image bytes": sum(map(_file_size, (*self.train.paths, *self.val.paths))),
            "content": content_digest(self.train, self.val),
            "val content": content_digest(self.val),
            "train sequence": sequence_digest(self.train),
            "val sequence": sequence_digest(self.val),
        }

    def loaders(
        self,
        run: Run,
        image_size: int,
        stride: int,
        distributed: Distributed,
        *,
        for_gpu: bool = False,
    ) -> Loaders:
        """Build the loaders of a run; `image_size` is a multiple of the model's `stride`, px.

        All processes must call this together.
        """
        options = run.options
        shared = options.cache == "ram"  # the processes wait for each other while it is filled
        with contextlib.nullcontext() if shared else distributed.local_main_first():
            return self._loaders(run, image_size, stride, distributed, for_gpu=for_gpu)

    def _loaders(
        self, run: Run, image_size: int, stride: int, distributed: Distributed, *, for_gpu: bool
    ) -> Loaders:
        options = run.options
        train = build_train_loader(
            self.train,
            image_size=image_size,
            batch_size=options.batch_size,
            hyp=run.hyp,
            seed=options.seed,
            workers=options.workers,
            cache=options.cache,
            mosaic_batches=run.mosaic_batches,
            rect=options.rect,
            stride=stride,
            shard=slice(distributed.rank, None, distributed.world_size),
            share=distributed.shared_file if distributed.shares_memory else None,
            local_processes=distributed.local_world_size,
            for_gpu=for_gpu,
        )
        val = build_eval_loader(
            self.val,
            image_size=image_size,
            batch_size=options.batch_size * EVAL_BATCH_FACTOR,
            workers=options.workers,
            stride=stride,
            cache=options.cache,
            share=distributed.shared_file if distributed.shares_memory else None,
            local_processes=distributed.local_world_size,
            for_gpu=for_gpu,
        )
        if not options.average:
            return Loaders(train, val)
        letterboxed = build_eval_loader(
            self.train,
            image_size=image_size,
            batch_size=options.batch_size,
            workers=options.workers,
            rect=False,
            every=math.ceil(len(self.train) / MAX_NORM_IMAGES),
            for_gpu=for_gpu,
        )
        return Loaders(train, val, letterboxed)


def _file_size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 -- a Path per file would cost seconds
    except OSError:  # reported when the image is read
        return 0


def content_digest(*splits: Index) -> str:
    """First digits of the SHA-256 over the names, sizes and labels of the images of the splits.

    Location, order and modification times of the files have no influence. Nor have the pixels,
    because reading them takes minutes. Image names are relative to the common folder of a split.
    It recognizes the data of checkpoints that have no `sequence_digest`.
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


def sequence_digest(split: Index) -> str:
    """First digits of the SHA-256 over the file names, sizes and labels of a split, in its order.

    Batches depend on this order. The folders have no influence, so that the data are recognized on
    another machine, even if they come from several folders.
    """
    names = (os.fsencode(path.rpartition(os.sep)[2]) for path in split.paths)
    digest = hashlib.sha256(b"\0".join(names))
    arrays = [(split.sizes, "<i4"), (split.offsets, "<i8"), (split.boxes, "<f4")]
    if split.ignored is not None:
        arrays += [(split.ignored.offsets, "<i8"), (split.ignored.boxes, "<f4")]
    for array, kind in arrays:
        digest.update(np.ascontiguousarray(array, kind).tobytes())
    return digest.hexdigest()[:DIGEST_LENGTH]


def load_data_description(run: Run) -> DatasetDescription:
    """Read the data-set file of a run.

    This takes little time, so a wrong file name is reported at once.

    Raises:
        UserError: if the file does not exist or is invalid, or the data must be obtained manually.
    """
    point = run.resume_point
    saved = point.checkpoint["config"].get("data", {}) if point is not None else {}
    before = Path(str(saved["folder"])) if "folder" in saved else None
    same_file = saved.get("file") == run.options.data
    with _asking_for_data(run):
        description = load_description(run.options.data, before if same_file else None)
        check_obtainable(description)
    if before is not None and before != description.root:
        log.warning(
            "The data set was in %s when the run was saved; it is read from %s now.",
            *(before, description.root),
        )
    return description


@contextlib.contextmanager
def _asking_for_data(run: Run) -> Iterator[None]:
    """Report missing data of a resumed run, which may be on another machine now."""
    try:
        yield
    except MissingDataError as error:
        if run.resume_point is None:
            raise
        raise UserError(
            f"{error.args[0]}; give the data-set file of the run on this machine with --data FILE, "
            f"or set {DATASETS_VARIABLE} to the folder that contains the data set."
        ) from error


def class_names(run: Run, description: DatasetDescription) -> tuple[str, ...]:
    """Class names that a run trains with: those of its data set, or one for `--single-cls`."""
    point = run.resume_point
    if point is not None and not run.options.single_cls:
        saved = point.checkpoint["config"]["names"]
        if saved != list(description.names) and saved == retyped_names(description.path):
            return tuple(saved)
    return evaluated_names(description.names, single_class=run.options.single_cls)


def build_training_data(run: Run, description: DatasetDescription) -> TrainingData:
    """Index the data set of a run; downloads or generates it if it does not exist.

    Raises:
        UserError: if the data are missing and cannot be obtained, or files are invalid.
    """
    names = class_names(run, description)
    with _asking_for_data(run):
        ensure_available(description)

    def index(split: Sequence[Path], *, needs_boxes: bool = True) -> Index:
        return build_index(
            split,
            names,
            single_class=run.options.single_cls,
            workers=run.options.workers,
            needs_boxes=needs_boxes,
        )

    train, val = description.split("train"), description.split("val")
    train_index = index(train)
    val_index = train_index if val == train else index(val, needs_boxes=False)
    return TrainingData(names, train_index, val_index, description.root)


def training_image_size(requested: int, stride: int) -> int:
    """The training image size: `requested`, rounded up to at least two strides.

    Batch norm cannot train on a single image whose coarsest feature map is a single cell.
    """
    size = max(round_up_to_stride(requested, stride), 2 * stride)
    if size != requested:
        log.warning(
            "--imgsz %d: must be a multiple of the stride %d and at least %d; using %d.",
            *(requested, stride, 2 * stride, size),
        )
    return size
