"""Small data sets: black images with white rectangles, and labels of the rectangles."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from utils.datasets.index import Index, build_index
from utils.hyp import Hyp

NO_AUGMENTATION = Hyp(
    **{"hsv_h": 0, "hsv_s": 0, "hsv_v": 0, "degrees": 0, "translate": 0, "scale": 0, "shear": 0},
    **{"perspective": 0, "flipud": 0, "fliplr": 0, "mosaic": 0, "mixup": 0},
)
Rectangle = tuple[int, int, int, int]
"""x1, y1, x2, y2 in whole pixels; x2 and y2 are exclusive."""


def label_rows(height: int, width: int, rectangles: Sequence[Rectangle], label: int = 0) -> str:
    """Return the text of a label file."""
    return "".join(
        f"{label} {(x1 + x2) / 2 / width:.9f} {(y1 + y2) / 2 / height:.9f} "
        f"{(x2 - x1) / width:.9f} {(y2 - y1) / height:.9f}\n"
        for x1, y1, x2, y2 in rectangles
    )


def augmentation(**ranges: float) -> Hyp:
    """Return hyper-parameters with these ranges of the augmentation, and no others."""
    return replace(NO_AUGMENTATION, **ranges)


def draw(
    root: Path, name: str, size: tuple[int, int], rectangles: Sequence[Rectangle], label: int = 0
) -> Path:
    """Write an image of `size` (height, width) and its labels; return the path of the image."""
    image = np.zeros((*size, 3), np.uint8)
    for x1, y1, x2, y2 in rectangles:
        image[y1:y2, x1:x2] = 255
    path = root / "images" / f"{name}.png"
    labels = root / "labels" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    labels.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
    labels.write_text(label_rows(*size, rectangles, label))
    return path


def drawn_index(root: Path, sizes: Sequence[tuple[int, int]]) -> Index:
    """Build an index of images of these sizes (height, width), each with one rectangle."""
    for i, (height, width) in enumerate(sizes):
        rectangle = (width // 8, height // 4 + i, width - width // 4 - i, height - height // 4)
        draw(root, f"{i:02d}", (height, width), [rectangle], label=i % 3)
    return build_index([root / "images"], ["a", "b", "c"])
