"""Output of an evaluation: table, metrics.json, plots, detections as label files."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.boxes import xyxy_to_xywh
from utils.datasets.dataset import Batch
from utils.evaluation.collected import to_original
from utils.evaluation.evaluate import TABLE_HEADER, ClassResult, Evaluation, table_row
from utils.evaluation.metrics import CONFUSION_CONFIDENCE
from utils.plots.fonts import drawable_names
from utils.plots.images import save_batch_grid

log = logging.getLogger("yolo")

PLOTTED_BATCHES = 3


def log_table(evaluation: Evaluation, *, per_class: bool = False, label: str = "all") -> None:
    """Log the row for all classes, below the header, and optionally each class."""
    if not sys.stderr.isatty():  # on a terminal, it is the title of the progress bar
        log.info("%s", table_row(*TABLE_HEADER))
    counts = evaluation.images, evaluation.instances
    log.info("%s", _row(label, counts, evaluation))
    if evaluation.instances == 0:
        log.warning(
            "The images have no boxes, so precision, recall and mAP are undefined, and shown as 0; "
            "%.3g false positives per image with a confidence above %g.",
            *(evaluation.false_positives_per_image, CONFUSION_CONFIDENCE),
        )
    for result in evaluation.classes if per_class else ():
        log.info("%s", _row(result.name, (result.images, result.instances), result))


def _row(name: str, counts: tuple[int, int], metrics: Evaluation | ClassResult) -> str:
    values = metrics.precision, metrics.recall, metrics.map50, metrics.map50_95
    return table_row(
        " ".join(name.split()), *map(str, counts), *(f"{value:.3g}" for value in values)
    )


def save_metrics(
    evaluation: Evaluation, path: Path, benchmarks: Mapping[str, object] | None = None
) -> None:
    """Write the metrics of an evaluation as JSON, including those of benchmarks, if any."""
    speed = dict(zip(("preprocess", "inference", "nms"), evaluation.speed_ms, strict=True))
    background = {"false_positives_per_image": evaluation.false_positives_per_image}
    if evaluation.instances:
        background = {}
    record = {
        "precision": evaluation.precision,
        "recall": evaluation.recall,
        "map50": evaluation.map50,
        "map50_95": evaluation.map50_95,
        "images": evaluation.images,
        "instances": evaluation.instances,
        **background,
        "speed_ms_per_image": speed,
        "classes": [dataclasses.asdict(result) for result in evaluation.classes],
        **(benchmarks or {}),
    }
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save_plots(evaluation: Evaluation, folder: Path) -> None:
    """Write the plots of the metric curves and the confusion matrix to a folder."""
    from utils.evaluation.curves import save_confusion_matrix, save_metric_curves

    names = drawable_names(evaluation.names)
    shown = dict(zip(evaluation.names, names, strict=True))
    curves = evaluation.curves
    curves = dataclasses.replace(curves, names=tuple(map(shown.__getitem__, curves.names)))
    save_metric_curves(curves, folder)
    save_confusion_matrix(evaluation.confusion, names, folder / "confusion_matrix.png")


class BatchPlots:
    """Observer that plots labels and detections of the first three batches.

    Args:
        folder: folder for val_batch0_labels.jpg, val_batch0_pred.jpg and so on.
        names: class names by index.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.names = names
        self.count = 0

    def __call__(self, batch: Batch, detections: list[Tensor]) -> None:
        """Plot a batch, if it is one of the first three."""
        if self.count < PLOTTED_BATCHES:
            stem = f"val_batch{self.count}"
            save_batch_grid(batch, self.folder / f"{stem}_labels.jpg", self.names)
            save_batch_grid(batch, self.folder / f"{stem}_pred.jpg", self.names, boxes=detections)
        self.count += 1


class TextFiles:
    """Observer that writes the detections of each image to a label file.

    A line has class, centre x and y, width and height as fractions of the image size, and
    optionally the confidence. There is no file for an image without detections.

    Args:
        folder: folder for the `<image>.txt` files; created if it does not exist. Images of equal
            name keep their folders in it, and of equal path without suffix their suffix.
        paths: all images.
        with_confidence: append the confidence to each line.
    """

    def __init__(self, folder: Path, paths: Sequence[str], *, with_confidence: bool) -> None:
        self.folder = folder
        self.names = text_file_names(paths)
        self.columns = 6 if with_confidence else 5
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, batch: Batch, detections: list[Tensor]) -> None:
        """Write the label files of a batch."""
        for frame, found in zip(batch.frames, detections, strict=True):
            if len(found):
                height, width = frame.original
                scaled = to_original(found, frame)
                boxes = xyxy_to_xywh(scaled[:, :4]) / scaled.new_tensor([width, height] * 2)
                rows = torch.cat((scaled[:, 5:], boxes, scaled[:, 4:5]), 1)[:, : self.columns]
                file = self.folder / self.names.get(frame.path, f"{Path(frame.path).stem}.txt")
                file.parent.mkdir(parents=True, exist_ok=True)
                np.savetxt(file, rows.numpy(), fmt="%g")


def text_file_names(paths: Sequence[str]) -> dict[str, str]:
    """Return the label files, below a folder, of the images that have no name of their own."""
    shared = os.path.commonprefix(paths)  # noqa: RUF071 -- what follows its last / is cut off
    start = len(shared.rpartition(os.sep)[0]) + 1
    stems = Counter(Path(path).stem for path in paths)
    equal = [path for path in paths if stems[Path(path).stem] > 1]
    inner = Counter(path[start:].rpartition(".")[0] for path in equal)
    stem = {path: path[start:].rpartition(".")[0] for path in equal}
    return {path: f"{path[start:] if inner[stem[path]] > 1 else stem[path]}.txt" for path in equal}
