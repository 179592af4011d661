"""A small CityPersons data set: MATLAB files in the benchmark's format, and generated images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from scipy.io import savemat

from utils.tools.convert.citypersons import HEIGHT, WIDTH

Row = tuple[int, int, int, int, int, int, int, int, int, int]
"""Class; x, y, w, h; instance; x, y, w, h of the visible part; px."""


def person(kind: int, left: int, top: int, height: int, seen: float = 1.0) -> Row:
    """Return a row of an upright person whose upper part is visible."""
    width = round(0.41 * height)
    return (kind, left, top, width, height, 1, left, top, width, round(seen * height))


def write_annotations(folder: Path, split: str, images: Mapping[str, Sequence[Row]]) -> Path:
    """Write anno_SPLIT.mat.

    Args:
        folder: created if missing.
        split: train or val.
        images: rows by names like aachen_000000_000001_leftImg8bit.png, which begin with a city.
    """
    cells = np.empty((1, len(images)), object)
    for i, (name, rows) in enumerate(images.items()):
        boxes = np.array(rows, np.int16).reshape(-1, 10)
        cells[0, i] = {"cityname": name.split("_")[0], "im_name": name, "bbs": boxes}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"anno_{split}.mat"
    savemat(file, {f"anno_{split}_aligned": cells})
    return file


def draw_images(root: Path, split: str, images: Mapping[str, Sequence[Row]]) -> None:
    """Write images with bright rectangles for the visible parts, in Cityscapes' folders."""
    for name, rows in images.items():
        image = np.full((HEIGHT, WIDTH, 3), (60, 50, 40), np.uint8)
        for row in rows:
            left, top, width, height = row[6:]
            colour = (40 * row[0], 220, 255 - 40 * row[0])
            cv2.rectangle(image, (left, top), (left + width, top + height), colour, cv2.FILLED)
        file = root / "leftImg8bit" / split / name.split("_")[0] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), image)
