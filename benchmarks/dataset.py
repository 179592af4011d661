"""What the size of a data set costs: checking its files, opening it again, reading from it. POSIX.

Usage: python benchmarks/dataset.py --data coco128.yaml --images 8192
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    # Python looks for modules beside this file; they are imported from the root, as everywhere.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import add_common_options, compare
from benchmarks.timing import MILLISECONDS, Measure, PeakMemory, Results
from utils.errors import UserError
from utils.options.script import OptionParser, run_script

# What is heavy is imported where it is used, so that --help answers at once.
if TYPE_CHECKING:
    from utils.datasets.index import Index
    from utils.datasets.loader import TrainLoader

CACHES = "*.npz"
"""Among the labels, where the index is kept."""


def build_parser() -> argparse.ArgumentParser:
    """The options of this program."""
    parser = OptionParser(
        prog="python benchmarks/dataset.py",
        description="Make a data set of any size out of links to the images and labels of another "
        "one; tell how long indexing it takes, anew and from the cache, and a training sample, and "
        "how much memory.",
    )
    add = parser.add_argument
    add("--data", default="coco128.yaml", help="whose images are linked (default: coco128.yaml)")
    add("--images", type=int, default=128, help="of the new data set (default: 128)")
    add("--imgsz", type=int, default=640, help="pixels of a sample (default: 640)")
    add("--batch-size", type=int, default=16, help="samples of a batch (default: 16)")
    add("--hyp", default="hyp.scratch-low.yaml", help="augmentation (default: scratch-low)")
    add("--samples", type=int, default=256, help="that make a round, or more (default: 256)")
    add_common_options(parser, rounds=3, against="--images 8192")
    return parser


def main() -> None:
    """Measure the variants that the command line asks for."""
    with tempfile.TemporaryDirectory(prefix="links-") as folder:
        compare(build_parser(), partial(prepare, folder=Path(folder)))


def prepare(args: argparse.Namespace, folder: Path) -> Measure:
    """Make the data set of a variant; a round indexes it twice and reads samples of it.

    Args:
        args: of the variant.
        folder: in which a new one takes the links.

    Raises:
        UserError: an option, the data set or the hyper-parameters are refused.
    """
    import cv2
    import torch

    from utils.datasets.description import ensure_available, load_description
    from utils.datasets.index import build_index
    from utils.datasets.loader import build_train_loader
    from utils.hyp import load_hyp

    if min(args.images, args.imgsz, args.batch_size, args.samples) < 1:
        raise UserError("--images, --imgsz, --batch-size and --samples must be 1 or more.")
    # As in a worker: a core makes its samples in one thread.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    description = load_description(args.data)
    ensure_available(description, ("train",))
    originals = build_index(description.split("train"), description.names)
    place = Path(tempfile.mkdtemp(dir=folder))
    pictures, labels = link_images(originals, args.images, place)
    open_index = partial(build_index, [pictures], description.names)
    open_loader = partial(
        build_train_loader,
        image_size=args.imgsz,
        batch_size=args.batch_size,
        hyp=load_hyp(args.hyp),
        seed=0,
        workers=0,
        cache=None,
    )

    def measure() -> Results:
        for cache in labels.glob(CACHES):
            cache.unlink()
        memory = PeakMemory(torch.device("cpu"))
        times = [time.perf_counter()]
        open_index()
        times.append(time.perf_counter())
        index = open_index()
        times.append(time.perf_counter())
        samples = read_samples(partial(open_loader, index), args.samples)
        times.append(time.perf_counter())
        require_complete(index, originals, args.images)
        anew, cached, reading = (b - a for a, b in itertools.pairwise(times))
        return {
            "indexing anew, ms/image": anew / args.images * MILLISECONDS,
            "indexing from the cache, ms/image": cached / args.images * MILLISECONDS,
            "training sample, ms": reading / samples * MILLISECONDS,
            "index, bytes/image": index_bytes(index) / args.images,
            "peak memory, MB": memory.megabytes(),
        }

    return measure


def link_images(originals: Index, count: int, folder: Path) -> tuple[Path, Path]:
    """Make a data set of symbolic links to images, one after the other and over again.

    Args:
        originals: the images; their labels are linked too, ignore regions are not.
        count: images of the new data set.
        folder: takes its folders.

    Returns:
        The folder of its images, and that of its labels.
    """
    from utils.datasets.labels import IMAGE_FOLDER, LABEL_FOLDER, find_labels

    pictures, labels = folder / IMAGE_FOLDER, folder / LABEL_FOLDER
    pictures.mkdir()
    labels.mkdir()
    images = list(originals.paths)
    files = [Path(label) for label in find_labels(images)]
    pairs = [(Path(i), f if f.exists() else None) for i, f in zip(images, files, strict=True)]
    for number in range(count):
        image, label = pairs[number % len(pairs)]
        name = f"{number:09d}"
        (pictures / f"{name}{image.suffix}").symlink_to(image)
        if label is not None:
            (labels / f"{name}.txt").symlink_to(label)
    return pictures, labels


def read_samples(open_loader: Callable[[], TrainLoader], least: int) -> int:
    """Read batches until there were `least` samples, and tell how many there were.

    Each epoch has a loader of its own, which must decode every image: in a small data set the one
    of the epoch before would still have some.
    """
    samples = epoch = 0
    while samples < least:
        for batch in open_loader().batches(epoch):
            samples += len(batch.images)
            if samples >= least:
                break
        epoch += 1
    return samples


def require_complete(index: Index, originals: Index, count: int) -> None:
    """See to it that what was measured is a data set of `count` images with all their boxes.

    Raises:
        UserError: it is not; the files have changed meanwhile.
    """
    import numpy as np

    boxes = int(np.resize(np.diff(originals.offsets), count).sum())
    if (len(index), len(index.boxes)) != (count, boxes):
        raise UserError(
            f"the data set of links has {len(index)} images and {len(index.boxes)} boxes instead "
            f"of {count} and {boxes}; leave the original files alone and start again."
        )


def index_bytes(index: Index) -> int:
    """Size of the arrays of an index, which every process that loads images holds."""
    packed = (index.paths.content, index.paths.offsets)
    return sum(array.nbytes for array in (*packed, index.sizes, index.boxes, index.offsets))


if __name__ == "__main__":
    run_script(main)
