"""Measures how the cost of indexing and reading a data set depends on its size. POSIX only.

Usage: python benchmarks/dataset.py --data coco128.yaml --images 8192
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    # A script starts with its own folder on sys.path; imports need the repository root instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import add_common_options, compare
from benchmarks.timing import KIB, MEGABYTE, MILLISECONDS, Measure, Measurements, PeakMemory
from utils.errors import UserError
from utils.options.script import OptionParser, run_script

# Slow modules are imported inside the functions that use them: --help must be fast.
if TYPE_CHECKING:
    from utils.datasets.index import Index
    from utils.datasets.loader import TrainLoader

INDEX_CACHE_GLOB = "*.npz"
"""Cache files of the index, in the label folder."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this program's options."""
    parser = OptionParser(
        prog="python benchmarks/dataset.py",
        description="Create a data set of any size from links to the images and labels of another "
        "one; measure the time to index it from scratch and from the cache, the time per training "
        "sample, and the memory.",
    )
    add = parser.add_argument
    add("--data", default="coco128.yaml", help="data set to link to (default: coco128.yaml)")
    add("--images", type=int, default=128, help="images in the new data set (default: 128)")
    add("--imgsz", type=int, default=640, help="image size in pixels (default: 640)")
    add("--batch-size", type=int, default=16, help="samples per batch (default: 16)")
    add(
        "--hyp",
        default="hyp.scratch-low.yaml",
        help="hyper-parameter file, for augmentation (default: hyp.scratch-low.yaml)",
    )
    add("--samples", type=int, default=256, help="minimum samples per round (default: 256)")
    add_common_options(parser, rounds=3, against="--images 8192")
    return parser


def main() -> None:
    """Measure the variants of the command line."""
    with tempfile.TemporaryDirectory(prefix="links-") as folder:
        compare(build_parser(), partial(prepare, folder=Path(folder)))


def prepare(args: argparse.Namespace, folder: Path) -> Measure:
    """Create the data set of a variant; a round indexes it twice and reads samples from it.

    Args:
        args: options of the variant.
        folder: an existing folder; the links go into a new folder inside it.

    Raises:
        UserError: an option, the data set or the hyper-parameters are invalid.
    """
    import cv2
    import torch

    from utils.datasets.description import ensure_available, load_description
    from utils.datasets.index import build_index
    from utils.datasets.loader import build_train_loader
    from utils.hyp import load_hyp

    for name in ("images", "imgsz", "batch_size", "samples"):
        if (value := getattr(args, name)) < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least 1.")
    # As in a worker process: one thread per core.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    description = load_description(args.data)
    ensure_available(description, ("train",))
    originals = build_index(description.split("train"), description.names)
    links = Path(tempfile.mkdtemp(dir=folder))
    image_folder, _ = link_images(originals, args.images, links)
    open_loader = partial(
        build_train_loader,
        image_size=args.imgsz,
        batch_size=args.batch_size,
        hyp=load_hyp(args.hyp),
        seed=0,
        workers=0,
        cache=None,
    )

    def measure() -> Measurements:
        index, result = measure_reading(image_folder, description.names, open_loader, args.samples)
        check_complete(index, originals, args.images)
        return result

    return measure


def measure_reading(
    image_folder: Path,
    names: Sequence[str],
    open_loader: Callable[..., TrainLoader],
    minimum: int,
) -> tuple[Index, Measurements]:
    """Index a folder from scratch and from the cache, and read at least `minimum` samples.

    Args:
        image_folder: a folder `images` beside the folder `labels`.
        names: class names.
        open_loader: builds a loader for an index; takes the number of `workers`.
        minimum: of the samples.
    """
    import torch

    from utils.datasets.index import build_index
    from utils.datasets.labels import LABEL_FOLDER

    for cache in (image_folder.parent / LABEL_FOLDER).glob(INDEX_CACHE_GLOB):
        cache.unlink()
    memory = PeakMemory(torch.device("cpu"))
    times = [time.perf_counter()]
    build_index([image_folder], names)
    times.append(time.perf_counter())
    index = build_index([image_folder], names)
    times.append(time.perf_counter())
    samples = read_samples(partial(open_loader, index), minimum)
    times.append(time.perf_counter())
    scratch, cached, reading = (b - a for a, b in itertools.pairwise(times))
    peak = memory.megabytes()
    return index, {
        "indexing from scratch, ms/image": scratch / len(index) * MILLISECONDS,
        "indexing from the cache, ms/image": cached / len(index) * MILLISECONDS,
        "training sample, ms": reading / samples * MILLISECONDS,
        "index, bytes/image": index_bytes(index) / len(index),
        **loader_process(open_loader(index, workers=1)),
        "peak memory, MB": peak,
    }


def link_images(originals: Index, count: int, folder: Path) -> tuple[Path, Path]:
    """Create a data set of symbolic links that repeats the original images in order.

    Args:
        originals: the images to link to; labels are linked too, ignore regions are not.
        count: number of images in the new data set.
        folder: an existing folder for the image folder and the label folder.

    Returns:
        The image folder and the label folder.
    """
    from utils.datasets.labels import IMAGE_FOLDER, LABEL_FOLDER, find_labels

    image_folder, label_folder = folder / IMAGE_FOLDER, folder / LABEL_FOLDER
    image_folder.mkdir()
    label_folder.mkdir()
    images = list(originals.paths)
    files = [Path(label) for label in find_labels(images)]
    pairs = [(Path(i), f if f.exists() else None) for i, f in zip(images, files, strict=True)]
    for number in range(count):
        image, label = pairs[number % len(pairs)]
        name = f"{number:09d}"
        (image_folder / f"{name}{image.suffix}").symlink_to(image)
        if label is not None:
            (label_folder / f"{name}.txt").symlink_to(label)
    return image_folder, label_folder


def read_samples(open_loader: Callable[[], TrainLoader], minimum: int) -> int:
    """Read whole batches up to at least `minimum` samples; return the number of samples.

    Each epoch has its own loader, so that every image is decoded: the loader of the previous
    epoch would still hold some images of a small data set in memory.
    """
    samples = epoch = 0
    while samples < minimum:
        for batch in open_loader().batches(epoch):
            samples += len(batch.images)
            if samples >= minimum:
                break
        epoch += 1
    return samples


def loader_process(loader: TrainLoader) -> Measurements:
    """Return the time to the first batch of a later epoch, and the memory of the loader process.

    Private memory is what it does not share with this process; it is known on Linux only.
    """
    next(loader.batches(0))  # starts the process
    began = time.perf_counter()
    next(loader.batches(1))
    result = {"first batch of an epoch, s": time.perf_counter() - began}
    (process,) = multiprocessing.active_children()
    file = Path(f"/proc/{process.pid}/smaps_rollup")
    if file.exists():
        fields = [line.split() for line in file.read_text(encoding="ascii").splitlines()[1:]]
        kib = {name: int(value) for name, value, *_ in fields}
        private = kib["Private_Clean:"] + kib["Private_Dirty:"]
        result["loader process, private MB"] = private * KIB / MEGABYTE
        result["loader process, RSS MB"] = kib["Rss:"] * KIB / MEGABYTE
    return result


def check_complete(index: Index, originals: Index, count: int) -> None:
    """Check that the index has `count` images and all their boxes.

    Raises:
        UserError: it does not, because the original files changed during the measurement.
    """
    import numpy as np

    boxes = int(np.resize(np.diff(originals.offsets), count).sum())
    if (len(index), len(index.boxes)) != (count, boxes):
        raise UserError(
            f"the data set of links has {len(index)} images and {len(index.boxes)} boxes instead "
            f"of {count} and {boxes}; start again and do not change the original files meanwhile."
        )


def index_bytes(index: Index) -> int:
    """Return the size in bytes of the arrays of an index; every loader process holds them."""
    packed = (index.paths.content, index.paths.offsets)
    return sum(array.nbytes for array in (*packed, index.sizes, index.boxes, index.offsets))


if __name__ == "__main__":
    run_script(main)
