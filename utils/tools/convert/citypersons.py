"""CityPersons: MATLAB files with a row of ten integers per person in Cityscapes' images.

A row is `class, x, y, w, h, instance, x_visible, y_visible, w_visible, h_visible`, in px; the upper
left corner of the image is 0, 0. Full boxes of pedestrians and riders have a width of 0.41 times
the height and may extend beyond the image. For all other classes only the visible box is known.
Source: the README of the annotations (Zhang, Benenson and Schiele, CityPersons, CVPR 2017).
"""

from __future__ import annotations

import logging
import multiprocessing
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.errors import UserError
from utils.tools.convert.annotated import (
    MAX_PIXELS,
    AnnotatedImage,
    Annotation,
    Conversion,
    Corners,
    Split,
    image_place,
)

log = logging.getLogger("yolo")

KINDS = ("ignore", "pedestrian", "rider", "sitting", "other", "group")
"""Class names by the class number of the annotations."""
IGNORE, PEDESTRIAN, RIDER, *_, GROUP = range(len(KINDS))
COLUMNS = 10
WIDTH, HEIGHT = 2048, 1024
"""Size of every image of Cityscapes, px."""
SPLITS = ("train", "val")
IMAGES_FOLDER = "leftImg8bit"
# Class names in the ground truth of the benchmark, numbered from 1; ignore regions are 0.
CATEGORIES = ("pedestrian", "rider", "sitting person", "other person", "people group")


class LabelFilter(NamedTuple):
    """Selects the boxes that become labels; all others become ignore regions."""

    classes: tuple[str, ...]
    """Elements of KINDS without `ignore`, in the order of the labels."""
    visible: bool
    """Use the boxes of the visible parts instead of the full boxes."""
    min_height: float
    """Minimum height of the full box, px."""
    min_visibility: float
    """Minimum area of the visible box over the area of the full box."""

    def to_annotation(self, row: Sequence[int]) -> Annotation:
        """Convert a row of the annotations to a label or an ignore region."""
        kind, visibility = KINDS[row[0]], _visibility(row)
        # The box of a group is its visible box; the columns of the visible box are empty.
        seen = self.visible and visibility > 0
        left, top, width, height = row[6:10] if seen else row[1:5]
        box = Corners(left, top, left + width, top + height)
        if kind not in self.classes:
            return Annotation(kind, box, None, f"of class {kind}")
        if row[4] < self.min_height:
            return Annotation(kind, box, None, f"lower than {self.min_height:g} px")
        if row[0] in (PEDESTRIAN, RIDER) and visibility < self.min_visibility:
            return Annotation(kind, box, None, f"less than {self.min_visibility:g} visible")
        return Annotation(kind, box, self.classes.index(kind))


class MatImage(NamedTuple):
    """An image's entry in the annotations."""

    city: str
    name: str
    rows: list[list[int]]


def parse_classes(text: str) -> tuple[str, ...]:
    """Parse a list of classes like `pedestrian,rider`; keep its order.

    Raises:
        UserError: a class is unknown or repeated.
    """
    classes = tuple(part.strip() for part in text.split(","))
    unknown = [name for name in classes if name not in KINDS[1:]]
    if unknown or len(set(classes)) < len(classes):
        raise UserError(f"--classes {text}: choose from {', '.join(KINDS[1:])}, each once.")
    return classes


def read_citypersons(annotations: Path, images: Path, label_filter: LabelFilter) -> Conversion:
    """Read anno_train.mat and anno_val.mat; one of them may be missing.

    Args:
        annotations: folder of the .mat files.
        images: folder that contains leftImg8bit/, or that folder itself.
        label_filter: selects the boxes that become labels.

    Raises:
        UserError: both files are missing, a file is damaged, or SciPy is not installed.
    """
    files = {split: annotations / f"anno_{split}.mat" for split in SPLITS}
    files = {split: file for split, file in files.items() if file.is_file()}
    if not files:
        raise UserError(
            f"{annotations} has neither anno_train.mat nor anno_val.mat; get them from "
            "https://github.com/cvgroup-njust/CityPersons and give their folder."
        )
    root = images if (images / next(iter(files))).is_dir() else images / IMAGES_FOLDER
    splits, truths = [], {}
    for split, file in files.items():
        mat_images = read_mat(file, split)
        found = [_image(image, root / split, label_filter, file) for image in mat_images]
        splits.append(Split(split, split, found))
        truths[f"annotations/{split}_gt.json"] = benchmark_ground_truth(mat_images)
    entries = {}
    if KINDS[PEDESTRIAN] in label_filter.classes:
        entries["miss_rate_gt"] = f"annotations/{'val' if 'val' in files else 'train'}_gt.json"
        if label_filter.visible:
            log.warning("The miss rate is evaluated with full boxes, as in the benchmark.")
    return Conversion(
        source_format="citypersons",
        settings={"annotations": str(annotations), **label_filter._asdict()},
        kinds=KINDS,
        names=label_filter.classes,
        splits=tuple(splits),
        entries=entries,
        json_files=truths,
        missing_images_remedy=(
            "download leftImg8bit_trainvaltest.zip from https://www.cityscapes-dataset.com, which "
            "needs an account, unpack it and give its folder with --images"
        ),
    )


def read_mat(file: Path, split: str) -> list[MatImage]:
    """Read the cell array anno_SPLIT_aligned of a MATLAB file, in a separate process.

    SciPy trusts the sizes in a file, so a damaged file can crash the process that reads it.

    Raises:
        UserError: the file cannot be read or is damaged, or SciPy is not installed.
    """
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(read_mat_here, file, split).result()
    except BrokenProcessPool as error:
        raise UserError(f"{file} is damaged (it crashed the reader); get it again.") from error


def read_mat_here(file: Path, split: str) -> list[MatImage]:
    """Do the work of `read_mat` in this process."""
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise UserError(
            f"{file} needs SciPy, which is not installed; install it with: pip install scipy"
        ) from error

    variable = f"anno_{split}_aligned"
    # Exceptions that scipy.io raises for damaged files.
    careless = (ArithmeticError, AttributeError, LookupError, NameError, TypeError, ValueError)
    faults = (MatReadError, EOFError, MemoryError, NotImplementedError, OSError, zlib.error)
    try:
        content = loadmat(file, variable_names=[variable], simplify_cells=True)
    except (*faults, *careless) as error:
        raise UserError(f"{file} is damaged ({error}); get it again.") from error
    try:
        cells = np.atleast_1d(content[variable])  # SciPy returns a single cell as it is
        if not len(cells):
            raise ValueError("there are no images")
        return [_mat_image(cell) for cell in cells]
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} has no cell array {variable} of images with cityname, im_name, and bbs with "
            f"rows of {COLUMNS} coordinates; give CityPersons' own file."
        ) from error


def _mat_image(entry: Any) -> MatImage:  # noqa: ANN401 -- a file can contain anything
    # SciPy returns a single row without its first dimension, and no rows as an empty array.
    rows = np.asarray(entry["bbs"], np.float64).reshape(-1, COLUMNS)
    if not (np.abs(rows) <= MAX_PIXELS).all():  # False for NaN
        raise ValueError("a number is not a coordinate")
    return MatImage(str(entry["cityname"]), str(entry["im_name"]), rows.astype(int).tolist())


def _image(
    image: MatImage, folder: Path, label_filter: LabelFilter, origin: Path
) -> AnnotatedImage:
    place = image_place(f"{image.city}/{image.name}", str(origin))
    for row in image.rows:
        if not 0 <= row[0] < len(KINDS):
            raise UserError(
                f"{origin}: class {row[0]} of image {image.name} is out of range "
                f"(classes are 0 to {len(KINDS) - 1}); correct the file."
            )
    annotations = tuple(label_filter.to_annotation(row) for row in image.rows)
    return AnnotatedImage(place, folder / place, WIDTH, HEIGHT, annotations)


def _visibility(row: Sequence[int]) -> float:
    """Return the area of the visible box over the area of the full box."""
    area = row[3] * row[4]
    return row[8] * row[9] / area if area else 0.0


def benchmark_ground_truth(mat_images: Sequence[MatImage]) -> dict[str, object]:
    """Return the ground truth in the format of the benchmark's evaluation.

    It does not depend on the selected labels. Every row has the category of pedestrians; rows of
    other classes are marked as ignored.
    """
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, image in enumerate(mat_images, 1):
        images.append({"id": number, "im_name": image.name, "height": HEIGHT, "width": WIDTH})
        for row in image.rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": PEDESTRIAN,
                    "iscrowd": int(row[0] == GROUP),
                    "ignore": int(row[0] != PEDESTRIAN),
                    "bbox": row[1:5],
                    "vis_bbox": row[6:10],
                    "height": row[4],
                    # The same number of digits as in the benchmark's file.
                    "vis_ratio": float(f"{_visibility(row):.12g}"),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(CATEGORIES, 1)]
    categories.append({"id": IGNORE, "name": "ignore region"})
    return {"categories": categories, "images": images, "annotations": annotations}
