"""COCO benchmark of a validation: results file, ground truth and COCO's 12 metrics."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from utils.datasets.dataset import Batch
from utils.datasets.description import load_description
from utils.datasets.ignore_regions import IgnoreRegions
from utils.datasets.index import Index
from utils.datasets.labels import to_pixels
from utils.errors import UserError
from utils.evaluation.collected import to_original
from utils.evaluation.evaluate import Evaluation
from utils.files.json_file import JsonObject, read_json

log = logging.getLogger("yolo")

ImageId = int | str
PACKAGE = "faster-coco-eval"
GROUND_TRUTH_FILE = "coco_ground_truth.json"
COCO_DATA = "coco.yaml"
# COCO numbers its 80 classes from 1 to 90, without these ids.
COCO_GAPS = frozenset((12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
COCO_CATEGORY_IDS = tuple(number for number in range(1, 91) if number not in COCO_GAPS)
BOX_DIGITS, SCORE_DIGITS = 3, 5  # decimal places; boxes are in pixels
METRICS = (
    ("AP", "average precision, IoU 0.50 to 0.95"),
    ("AP50", "average precision, IoU 0.50"),
    ("AP75", "average precision, IoU 0.75"),
    ("APs", "average precision, below 32x32 px"),
    ("APm", "average precision, 32x32 to 96x96 px"),
    ("APl", "average precision, above 96x96 px"),
    ("AR1", "average recall, 1 detection per image"),
    ("AR10", "average recall, 10 detections per image"),
    ("AR100", "average recall, 100 detections per image"),
    ("ARs", "average recall, below 32x32 px"),
    ("ARm", "average recall, 32x32 to 96x96 px"),
    ("ARl", "average recall, above 96x96 px"),
)
"""Short names and descriptions of COCO's 12 metrics, in the order of the library."""


class CocoIds(NamedTuple):
    """Ids of classes and images in a ground-truth file."""

    categories: tuple[int, ...]
    """Category ids by class index."""
    images: Mapping[str, ImageId]
    """Image ids by path."""


class CocoBenchmark:
    """Observer of one evaluation that collects detections and evaluates them as COCO does.

    Args:
        index: index of the images.
        names: names of the evaluated classes.
        regions: ignore regions of the images, if there are any.
        published: ground-truth file in COCO's format. If it is None, does not exist, or is of other
            images or classes, the ground truth is built from the labels.

    Raises:
        UserError: the published file has another format.
    """

    def __init__(
        self,
        index: Index,
        names: Sequence[str],
        regions: IgnoreRegions | None,
        published: Path | None,
    ) -> None:
        self._index, self._names, self._regions = index, names, regions
        ids = published_ids(published, names, index.paths)
        self._published = published if ids else None
        self._ids = ids or default_ids(names, index.paths)
        self._found: dict[str, np.ndarray] = {}

    def __call__(self, batch: Batch, detections: list[Tensor]) -> None:
        """Collect the detections of a batch."""
        for frame, found in zip(batch.frames, detections, strict=True):
            columns = to_original(found, frame).double().numpy()
            columns[:, 2:4] -= columns[:, :2]
            self._found[frame.path] = columns

    def report(self, evaluation: Evaluation, results: Path) -> dict[str, object]:
        """Write the results file, and next to it a ground truth built from labels; log metrics.

        Args:
            evaluation: our metrics, logged next to COCO's.
            results: the results file to write.

        Returns:
            Entry for metrics.json: library and metrics; {} if the library is not installed.
        """
        save_results(self._found, self._ids, results)
        truth = self._published
        if truth is None:
            truth = results.with_name(GROUND_TRUTH_FILE)
            save_ground_truth(self._index, self._names, self._ids, self._regions, truth)
        if find_spec("faster_coco_eval") is None:
            log.warning(
                "COCO metrics are skipped, their library is not installed; run: pip install %s",
                PACKAGE,
            )
            return {}
        library = f"{PACKAGE} {version(PACKAGE)}"
        metrics = coco_metrics(truth, results, self._ids.images.values())
        log_coco_metrics(library, metrics, map50=evaluation.map50, map50_95=evaluation.map50_95)
        return {"coco": {"library": library, **metrics}}


def default_ids(names: Sequence[str], images: Sequence[str]) -> CocoIds:
    """Return the ids for ground truth that is built from the labels.

    The category ids are COCO's if these are its 80 classes, else 0, 1, 2 and so on. An image's id
    is its file name without suffix, as an integer if all names are numbers, as in COCO. If names
    repeat (in several folders), the id is the position, from 1.
    """
    coco = load_description(COCO_DATA).names
    categories = COCO_CATEGORY_IDS if tuple(names) == coco else tuple(range(len(names)))
    stems = [Path(image).stem for image in images]
    ids: Sequence[ImageId] = stems
    if all(stem.isdecimal() for stem in stems):
        ids = [int(stem) for stem in stems]
    if len(set(ids)) < len(ids):
        ids = range(1, len(ids) + 1)
    return CocoIds(categories, dict(zip(images, ids, strict=True)))


def published_ids(file: Path | None, names: Sequence[str], images: Sequence[str]) -> CocoIds | None:
    """Return the ids in a ground-truth file such as instances_val2017.json.

    Returns None if the file does not exist or does not have all of the classes and images.

    Raises:
        UserError: the file has another format.
    """
    if file is None or not file.exists():
        return None
    content = read_json(file)
    try:
        by_stem = {Path(image["file_name"]).stem: image["id"] for image in content["images"]}
        by_name = {category["name"]: category["id"] for category in content["categories"]}
        _ = [row["image_id"] for row in content["annotations"]]
    except (KeyError, TypeError) as error:
        raise _not_coco(file) from error
    missing = [image for image in images if Path(image).stem not in by_stem]
    missing += [name for name in names if name not in by_name]
    if missing:
        log.warning("%s does not have %s; using the labels as ground truth.", file, missing[0])
        return None
    image_ids = {image: by_stem[Path(image).stem] for image in images}
    return CocoIds(tuple(by_name[name] for name in names), image_ids)


def _not_coco(file: Path) -> UserError:
    return UserError(f"{file} is not a ground-truth file in COCO's format; give an instances file.")


def save_ground_truth(
    index: Index, names: Sequence[str], ids: CocoIds, regions: IgnoreRegions | None, path: Path
) -> None:
    """Write ground truth built from labels, in COCO's format.

    The area is that of the box; COCO's own files have the area of the object's mask. An ignore
    region applies to all classes: it becomes a crowd of every class that has labels.
    """
    labelled = np.unique(index.boxes[:, 0])
    images: list[JsonObject] = []
    annotations: list[JsonObject] = []
    for i, image in enumerate(index.paths):
        height, width = size = index.sizes[i].tolist()
        place = {"id": ids.images[image], "file_name": Path(image).name}
        images.append({**place, "width": width, "height": height})
        rows = [(row, 0) for row in index.labels(i)]
        for region in regions.of(i) if regions is not None else ():
            rows += [(np.append(label, region), 1) for label in labelled]
        for row, crowd in rows:
            x1, y1, x2, y2 = to_pixels(row[None], size)[0].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,  # COCO's libraries treat id 0 as no match
                    "image_id": place["id"],
                    "category_id": ids.categories[int(row[0])],
                    "bbox": [round(value, BOX_DIGITS) for value in (x1, y1, x2 - x1, y2 - y1)],
                    "area": round((x2 - x1) * (y2 - y1), BOX_DIGITS),
                    "iscrowd": crowd,
                }
            )
    categories = zip(ids.categories, names, strict=True)
    content = {
        "info": {"description": "made from label files"},
        "images": images,
        "categories": [{"id": category, "name": name} for category, name in categories],
        "annotations": annotations,
    }
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def save_results(detections: Mapping[str, np.ndarray], ids: CocoIds, path: Path) -> None:
    """Write detections in COCO's results format, a list with one object per detection.

    Args:
        detections: by image path: [n, 6] left, top, width, height in pixels, score, class.
        ids: ids of classes and images.
        path: the file to write.
    """
    separator = ""
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for image, rows in detections.items():
            for *box, score, label in rows.tolist():
                entry = {
                    "image_id": ids.images[image],
                    "category_id": ids.categories[int(label)],
                    "bbox": [round(value, BOX_DIGITS) for value in box],
                    "score": round(score, SCORE_DIGITS),
                }
                file.write(separator + json.dumps(entry))
                separator = ", "
        file.write("]\n")


def coco_metrics(
    truth: Path, results: Path, images: Collection[ImageId]
) -> dict[str, float | None]:
    """Evaluate a results file.

    Args:
        truth: file of the ground truth in COCO's format.
        results: file of the detections in COCO's format.
        images: ids of the evaluated images; other images of the ground truth are ignored.

    Returns:
        COCO's 12 metrics by the short names of `METRICS`; None if there are no labels of the kind.

    Raises:
        UserError: the ground truth has another format.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    # The library needs integer ids, but the ids of custom data sets may be names.
    numbers = {image: number for number, image in enumerate(images, 1)}

    def renumbered(rows: Sequence[JsonObject], key: str) -> list[JsonObject]:
        return [{**row, key: numbers[row[key]]} for row in rows if row[key] in numbers]

    try:
        content = read_json(truth)
        dataset = {
            "info": {},
            "categories": content["categories"],
            "images": renumbered(content["images"], "id"),
            "annotations": renumbered(content["annotations"], "image_id"),
        }
        labels = COCO(dataset)
        rows = renumbered(read_json(results), "image_id")
        # loadRes of versions before 1.8 fails without detections.
        found = labels.loadRes(rows) if rows else COCO({**dataset, "annotations": []})
        evaluator = COCOeval_faster(labels, found, iouType="bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    except (KeyError, TypeError) as error:
        raise _not_coco(truth) from error
    names = [name for name, _ in METRICS]
    values = map(float, evaluator.stats[: len(names)])  # -1 if there are no labels of the kind
    return {n: None if v < 0 else v for n, v in zip(names, values, strict=True)}


def log_coco_metrics(
    library: str, metrics: Mapping[str, float | None], *, map50: float, map50_95: float
) -> None:
    """Log a table of COCO's 12 metrics, with our AP and AP50 next to COCO's."""
    ours = {"AP": f"{map50_95:.4f}", "AP50": f"{map50:.4f}"}
    log.info("\nCOCO metrics by %s%s", library.ljust(37), "COCO    ours")
    for name, meaning in METRICS:
        value = metrics[name]
        coco = "-" if value is None else f"{value:.4f}"
        log.info("%s", f"{name:>6}  {meaning:<42}{coco:>7}{ours.get(name, ''):>8}")
