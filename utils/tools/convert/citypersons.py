"""CityPersons: MATLAB files with a row of ten whole numbers per person in Cityscapes' images.

A row is `class, x, y, w, h, instance, x_visible, y_visible, w_visible, h_visible`, px, the upper
left corner of the image being 0, 0. Boxes of whole pedestrians and riders are 0.41 times as wide as
high and may reach over the image's edge; of all others only the visible box is known. As told by
the README of the annotations (Zhang, Benenson and Schiele, CityPersons, CVPR 2017).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError
from utils.tools.convert.annotated import (
    AnnotatedImage,
    Annotation,
    Conversion,
    Corners,
    Split,
    image_place,
    require_distinct,
)
from utils.tools.convert.mat_files import MatImage, read_mat

log = logging.getLogger("yolo")

KINDS = ("ignore", "pedestrian", "rider", "sitting", "other", "group")
"""By the class number of the annotations."""
IGNORE, PEDESTRIAN, RIDER, *_, GROUP = range(len(KINDS))
WIDTH, HEIGHT = 2048, 1024
"""Of every image of Cityscapes."""
SPLITS = ("train", "val")
IMAGES_FOLDER = "leftImg8bit"
# How the benchmark's own ground truth calls its classes.
CATEGORIES = (
    (PEDESTRIAN, "pedestrian"),
    (RIDER, "rider"),
    (3, "sitting person"),
    (4, "other person"),
    (GROUP, "people group"),
    (IGNORE, "ignore region"),
)


class Choice(NamedTuple):
    """Which boxes go into the labels; everything else becomes an ignore region."""

    classes: tuple[str, ...]
    """Of KINDS without `ignore`; the order is that of the labels."""
    visible: bool
    """Boxes around the visible part of a person instead of the whole one."""
    min_height: float
    """Of the whole person, px."""
    min_visibility: float
    """Area of the visible box over that of the whole one."""

    def judge(self, row: Sequence[int]) -> Annotation:
        """What becomes of a row of the annotations."""
        kind, visibility = KINDS[row[0]], _visibility(row)
        # Of groups, whose box is the visible one, the file has no visible one besides.
        seen = self.visible and visibility > 0
        box = _corners(row[6:10] if seen else row[1:5])
        if kind not in self.classes:
            return Annotation(kind, box, None, f"of class {kind}")
        if row[4] < self.min_height:
            return Annotation(kind, box, None, f"lower than {self.min_height:g} px")
        whole_is_seen = row[0] not in (PEDESTRIAN, RIDER)
        if visibility < self.min_visibility and not whole_is_seen:
            return Annotation(kind, box, None, f"less than {self.min_visibility:g} visible")
        return Annotation(kind, box, self.classes.index(kind))


def parse_classes(text: str) -> tuple[str, ...]:
    """The classes of a list like `pedestrian,rider`, in its order.

    Raises:
        UserError: one is unknown or named twice.
    """
    classes = tuple(part.strip() for part in text.split(","))
    unknown = [name for name in classes if name not in KINDS[1:]]
    if unknown or len(set(classes)) < len(classes):
        raise UserError(f"--classes is {text!r}; name each once of {', '.join(KINDS[1:])}.")
    return classes


def read_citypersons(annotations: Path, images: Path, choice: Choice) -> Conversion:
    """Read anno_train.mat and anno_val.mat, or the one of them that is there.

    Args:
        annotations: the folder of the .mat files.
        images: the folder that holds leftImg8bit/, or that folder itself.
        choice: which boxes go into the labels.

    Raises:
        UserError: there is no such file, it is something else, or SciPy is missing.
    """
    if not 0 <= choice.min_visibility <= 1 or choice.min_height < 0:
        raise UserError("--min-height must be 0 or more px, --min-visibility from 0 to 1.")
    files = {split: annotations / f"anno_{split}.mat" for split in SPLITS}
    files = {split: file for split, file in files.items() if file.is_file()}
    if not files:
        raise UserError(
            f"{annotations} has neither anno_train.mat nor anno_val.mat; get them with CityPersons "
            "(https://github.com/cvgroup-njust/CityPersons) and name their folder."
        )
    root = images if (images / next(iter(files))).is_dir() else images / IMAGES_FOLDER
    splits, truths = [], {}
    for split, file in files.items():
        pictures = read_mat(file, split)
        _require_known_classes(pictures, file)
        found = tuple(_image(picture, root / split, choice, file) for picture in pictures)
        require_distinct(found, str(file))
        splits.append(Split(split, split, found))
        truths[f"annotations/{split}_gt.json"] = benchmark_truth(pictures)
    entries = {}
    if KINDS[PEDESTRIAN] in choice.classes:
        judged = "val" if "val" in files else "train"
        entries["miss_rate_gt"] = f"annotations/{judged}_gt.json"
        if choice.visible:
            log.warning("The miss rate judges boxes of whole people, as the benchmark does.")
    return Conversion(
        form="citypersons",
        settings={"annotations": str(annotations), **choice._asdict()},
        kinds=KINDS,
        names=choice.classes,
        splits=tuple(splits),
        entries=entries,
        documents=truths,
        where_images=(
            "Cityscapes gives them to those with an account: get leftImg8bit_trainvaltest.zip at "
            "https://www.cityscapes-dataset.com, unpack it and name its folder with --images"
        ),
    )


def _require_known_classes(pictures: Sequence[MatImage], file: Path) -> None:
    for picture in pictures:
        unknown = next((row[0] for row in picture.rows if not 0 <= row[0] < len(KINDS)), None)
        if unknown is not None:
            raise UserError(
                f"{file}: image {picture.name} has a row of class {unknown}; "
                f"there are 0 to {len(KINDS) - 1}."
            )


def _image(picture: MatImage, folder: Path, choice: Choice, origin: Path) -> AnnotatedImage:
    place = image_place(f"{picture.city}/{picture.name}", str(origin))
    return AnnotatedImage(
        place, folder / place, WIDTH, HEIGHT, tuple(choice.judge(row) for row in picture.rows)
    )


def _corners(box: Sequence[int]) -> Corners:
    left, top, width, height = box
    return Corners(left, top, left + width, top + height)


def _visibility(row: Sequence[int]) -> float:
    """Area of the visible box over that of the whole one."""
    area = row[3] * row[4]
    return row[8] * row[9] / area if area else 0.0


def benchmark_truth(pictures: Sequence[MatImage]) -> dict[str, object]:
    """The ground truth as the benchmark's evaluation reads it, whatever the labels are made of.

    Every row stands under the category of pedestrians, and those that are none are ignored.
    """
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, picture in enumerate(pictures, 1):
        images.append({"id": number, "im_name": picture.name, "height": HEIGHT, "width": WIDTH})
        for row in picture.rows:
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
                    # As many digits as in the benchmark's own file.
                    "vis_ratio": float(f"{_visibility(row):.12g}"),
                }
            )
    categories = [{"id": number, "name": name} for number, name in CATEGORIES]
    return {"categories": categories, "images": images, "annotations": annotations}
