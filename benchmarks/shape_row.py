"""Measures one shape of data in this process; benchmarks/shapes.py starts it for each round.

Usage: python benchmarks/shape_row.py NAME --root CLONE --folder DATA --out FILE
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

if __name__ == "__main__":
    # The code to measure comes from the clone, and the programs that measure it from this folder.
    package = ModuleType("benchmarks")
    package.__path__ = [str(Path(__file__).resolve().parent)]
    sys.modules["benchmarks"] = package
    sys.path[0] = sys.argv[sys.argv.index("--root") + 1]

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import dataset, step, validate
from benchmarks.shape_data import READING, SHAPES, TRAINING, VALIDATION, Shape, class_names
from benchmarks.timing import MILLISECONDS, Measurements, PeakMemory
from models.head import BOX_FIELDS

if TYPE_CHECKING:
    from models.detector import Detector
    from utils.datasets.dataset import Batch
    from utils.datasets.index import Index
    from utils.datasets.loader import TrainLoader

STEPS = 2
MIN_SAMPLES = 64
NETWORK_PARTS = ("forward", "backward", "gradient norm", "optimizer", "EMA")
COPIES = 12
"""Boxes around each object before suppression."""
CLUTTER = 1100
MEDIAN_CLUTTER, CLUTTER_SPREAD = 0.008, 1.3
"""Boxes elsewhere: median and logarithmic deviation of their objectness. With yolov5n on COCO128,
an image has 1,222 boxes above 0.001; the median of their objectness is 0.008."""
TRAINED_LOGIT = 5.0
"""Subtracted from the objectness of an untrained model, so that few cells are decoded."""


def main() -> None:
    """Measure a row and write its results to a JSON file."""
    parser = argparse.ArgumentParser(description="Measure one shape of data.")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--root", required=True, help="clone of the code to measure")
    parser.add_argument("--folder", type=Path, required=True, help="data set of this shape")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="the small version of the shape")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    args = parser.parse_args()
    shape = SHAPES[args.shape].quick() if args.quick else SHAPES[args.shape]
    if args.clock == "cpu":
        time.perf_counter = time.process_time  # for all clocks of this process
        torch.set_num_threads(1)
    args.out.write_text(json.dumps(measure(shape, args.folder)), encoding="utf-8")


def measure(shape: Shape, folder: Path) -> Measurements:
    """Return the results of a shape whose data is in `folder`."""
    from utils.datasets.index import build_index
    from utils.runtime.device import keep_freed_memory

    keep_freed_memory(torch.device("cpu"))  # as train.py does before it starts workers
    threads = torch.get_num_threads()
    index = build_index([folder / "images"], class_names(shape))
    # The part that needs least memory comes first: freed memory stays with the process.
    result = measure_reading(shape, folder) if READING in shape.parts else {}
    torch.set_num_threads(threads)
    if VALIDATION in shape.parts:
        result |= measure_validation(shape, folder, index)
    if TRAINING in shape.parts:
        result |= measure_training(shape, folder, index)
        result["sample, % of step"] = 100 * result["sample, ms"] / result["step, ms"]
    return result


def measure_reading(shape: Shape, folder: Path) -> Measurements:
    """Index the data, read samples, and start an epoch."""
    import cv2

    cv2.setNumThreads(0)  # as in a worker process: one thread
    torch.set_num_threads(1)
    open_loader = partial(train_loader, shape)
    names = class_names(shape)
    _, found = dataset.measure_reading(folder / "images", names, open_loader, MIN_SAMPLES)
    found["sample, ms"] = found.pop("training sample, ms")
    found["reading, peak MB"] = found.pop("peak memory, MB")
    return found


def train_loader(shape: Shape, index: Index, workers: int = 0) -> TrainLoader:
    """Return the loader of a training with the default hyper-parameters."""
    from utils.datasets.loader import build_train_loader
    from utils.hyp import load_hyp

    return build_train_loader(
        index,
        image_size=shape.imgsz,
        batch_size=shape.batch_size,
        hyp=load_hyp("hyp.scratch-low.yaml"),
        seed=0,
        workers=workers,
        cache=None,
    )


def measure_training(shape: Shape, folder: Path, index: Index) -> Measurements:
    """Train on the first batches of an epoch; return milliseconds per image."""
    from utils.training.engine import train_step

    options = {"--cfg": folder / "model.yaml", "--imgsz": shape.imgsz, "--amp": "auto"}
    options |= {"--batch-size": shape.batch_size}
    words = [str(word) for pair in options.items() for word in pair]
    state, context, _, parts = step.build_training(step.build_parser().parse_args(words))
    epochs = map(train_loader(shape, index).batches, itertools.count())
    batches = list(itertools.islice(itertools.chain.from_iterable(epochs), STEPS))
    train_step(state, context, batches[0], last=True)
    memory = PeakMemory(context.device)
    parts.milliseconds()  # discards the marks of the first step
    parts.mark("begin")
    for batch in batches:
        train_step(state, context, batch, last=True)
        parts.mark("EMA")
    images = sum(len(batch.images) for batch in batches)
    found = {part: passed / images for part, passed in parts.milliseconds().items()}
    whole, network = sum(found.values()), sum(found[part] for part in NETWORK_PARTS)
    return {
        "boxes per sample": sum(len(batch.targets) for batch in batches) / images,
        "assignment, ms": found["assignment"],
        "loss, ms": found["loss"],
        "step, ms": whole,
        "not the network, % of step": 100 * (1 - network / whole),
        "step, peak MB": memory.megabytes(),
    }


def measure_validation(shape: Shape, folder: Path, index: Index) -> Measurements:
    """Validate; return milliseconds per image, and the time of the plots without imports."""
    import matplotlib.figure  # noqa: F401 -- imported before the plots are measured
    import seaborn as sns  # noqa: F401

    from models.detector import Detector, fuse
    from models.spec import load_spec
    from utils.datasets.eval_loader import build_eval_loader
    from utils.evaluation.evaluate import evaluate
    from utils.evaluation.report import save_plots
    from utils.runtime.device import select_device

    device = select_device()
    torch.manual_seed(0)
    model = StandIn(fuse(Detector(load_spec(folder / "model.yaml")).to(device)), shape)
    batch_size, stride = 2 * shape.batch_size, model.stride
    loader = build_eval_loader(
        index, image_size=shape.imgsz, batch_size=batch_size, workers=0, stride=stride
    )
    memory = PeakMemory(device)
    batches = validate.TimedBatches(loader)
    times = [time.perf_counter()]

    def prepared() -> Iterator[Batch]:
        for batch in batches:
            model.prepare(batch)
            yield batch
        times.append(time.perf_counter())

    detector = cast("Detector", model)
    result = evaluate(detector, prepared(), names=class_names(shape), device=device)
    times.append(time.perf_counter())
    save_plots(result, folder)
    times.append(time.perf_counter())
    running, metrics, plots = (b - a for a, b in itertools.pairwise(times))
    per_image = MILLISECONDS / result.images
    loading = batches.seconds * per_image
    matching = (running - model.preparing) * per_image - loading - sum(result.speed_ms)
    whole = sum(result.speed_ms) + matching + metrics * per_image
    return {
        "loading, ms": loading,
        "inference, ms": result.speed_ms[1],
        "suppression, ms": result.speed_ms[2],
        "matching, ms": matching,
        "metrics, ms": metrics * per_image,
        "validation, ms": whole,
        "not the network, % of validation": 100 * (1 - result.speed_ms[1] / whole),
        "plots, s": plots,
        "validation, peak MB": memory.megabytes(),
    }


class StandIn(nn.Module):
    """Wraps an untrained model: it computes as always, but can return boxes of a trained one.

    Args:
        model: the model.
        shape: `trained` decides which boxes to return.
    """

    def __init__(self, model: Detector, shape: Shape) -> None:
        super().__init__()
        self._model = model
        self._shape = shape
        for level in model.head.m if shape.trained else ():
            bias = cast("Tensor", level.bias).data
            bias[BOX_FIELDS - 1 :: BOX_FIELDS + shape.classes] -= TRAINED_LOGIT
        self._boxes: list[Tensor] = []
        self.stride = model.max_stride
        self.preparing = 0.0
        """Seconds spent in `prepare`."""

    def forward(self, images: Tensor) -> list[Tensor]:
        """Run `Detector.forward`."""
        raw: list[Tensor] = self._model(images)
        return raw

    def prepare(self, batch: Batch) -> None:
        """Make the boxes of the next batch from its labels."""
        began = time.perf_counter()
        height, width = batch.images.shape[2:]
        scale = batch.targets.new_tensor([1, width, height, width, height])
        for position, number in enumerate(batch.indices.tolist() if self._shape.trained else ()):
            rows = batch.targets[batch.targets[:, 0] == position, 1:] * scale
            rng = np.random.default_rng(number)
            self._boxes.append(boxes_of_trained(rows.numpy(), self._shape.classes, rng))
        self.preparing += time.perf_counter() - began

    def decode_confident(self, raw: list[Tensor], threshold: float) -> list[Tensor]:
        """Run `Detector.decode_confident`; return its boxes, or the prepared ones if there are."""
        decoded = self._model.decode_confident(raw, threshold)
        found, self._boxes = self._boxes[: len(decoded)], self._boxes[len(decoded) :]
        return [boxes.to(raw[0].device) for boxes in found] or decoded


def boxes_of_trained(rows: np.ndarray, classes: int, rng: np.random.Generator) -> Tensor:
    """Return boxes near objects and elsewhere, [n, 5 + classes], like `Detector.decode_confident`.

    Args:
        rows: class, centre and size of the objects, px, [k, 5].
        classes: number of classes.
        rng: source of randomness.
    """
    count = COPIES * len(rows)
    near, far = np.repeat(rows, COPIES, axis=0), rows[rng.integers(len(rows), size=CLUTTER)]
    near[:, 1:3] += rng.normal(0, 0.05, (count, 2)) * near[:, 3:]
    near[:, 3:] *= np.exp(rng.normal(0, 0.1, (count, 2)))
    far[:, 1:3] = rng.uniform(0, 1, (CLUTTER, 2)) * rows[:, 1:3].max(0)
    far[:, 0] = rng.integers(classes, size=CLUTTER)
    both = np.concatenate([near, far])
    clutter = np.exp(rng.normal(np.log(MEDIAN_CLUTTER), CLUTTER_SPREAD, CLUTTER))
    result = np.full((len(both), BOX_FIELDS + classes), 1e-4, np.float32)
    result[:, :4] = both[:, 1:]
    result[:, 4] = np.concatenate([rng.uniform(0.02, 0.95, count), clutter.clip(0.001, 0.5)])
    numbers = np.arange(len(both))
    result[numbers, BOX_FIELDS + rng.integers(classes, size=len(both))] = rng.uniform(
        0.1, 0.3, len(both)
    )
    result[numbers, BOX_FIELDS + both[:, 0].astype(int)] = rng.uniform(0.3, 0.95, len(both))
    return torch.from_numpy(result)


if __name__ == "__main__":
    main()
