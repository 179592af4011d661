"""The shapes of real data sets that benchmarks/shapes.py measures, and data in these shapes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.dataset import link_images
from utils.errors import UserError

# Slow modules are imported inside the functions that use them: --help must be fast.
if TYPE_CHECKING:
    import numpy as np

READING, TRAINING, VALIDATION = "reading", "training", "validation"
ALL_PARTS = (READING, TRAINING, VALIDATION)
ORIGINALS = 64
"""Different images of a data set of links."""
QUICK_IMAGES, QUICK_LINKS, QUICK_SCALE, QUICK_IMGSZ = 2, 64, 8, 64
JPEG_QUALITY = 90
OCTAVES = ((256, 60.0), (64, 30.0), (16, 14.0), (4, 8.0), (1, 4.0))
"""Noise that is as hard to decode as a photograph, 1.8 bits per pixel: size of the grains, px, and
standard deviation, levels."""


class Shape(NamedTuple):
    """Properties of a data set that speed depends on, and how to train on it."""

    classes: int
    objects: int
    """Objects per image."""
    sides: tuple[float, float]
    """Minimum and maximum side of an object, relative to the image."""
    size: tuple[int, int] = (480, 640)
    """(height, width) of the images, px."""
    suffix: str = ".jpg"
    images: int = 32
    links: int = 0
    """Number of links to `ORIGINALS` images; 0 for a data set without links."""
    imgsz: int = 640
    batch_size: int = 16
    cfg: str = "yolov5n.yaml"
    trained: bool = True
    """Whether validation has the boxes of a trained model; otherwise those of an untrained one."""
    parts: tuple[str, ...] = ALL_PARTS

    def quick(self) -> Shape:
        """Return a small version, to check that the program works."""
        return self._replace(
            size=(max(self.size[0] // QUICK_SCALE, 32), max(self.size[1] // QUICK_SCALE, 32)),
            images=QUICK_IMAGES,
            links=min(self.links, QUICK_LINKS),
            imgsz=QUICK_IMGSZ,
            batch_size=QUICK_IMAGES,
        )


SHAPES: Mapping[str, Shape] = {
    "coco": Shape(80, 7, (0.05, 0.6)),
    "street": Shape(1, 25, (0.03, 0.2)),
    "untrained": Shape(1, 25, (0.03, 0.2), trained=False, parts=(VALIDATION,)),
    "shelf": Shape(1, 150, (0.03, 0.08)),
    "aerial": Shape(20, 300, (0.01, 0.03)),
    "600-classes": Shape(600, 5, (0.1, 0.6)),
    "photos": Shape(80, 7, (0.05, 0.6), size=(3000, 4000), images=16),
    "png": Shape(8, 20, (0.02, 0.2), size=(1024, 2048), suffix=".png", images=16),
    "p6": Shape(
        80, 7, (0.05, 0.6), (960, 1280), images=8, imgsz=1280, batch_size=4, cfg="yolov5n6.yaml"
    ),
    "val-5000": Shape(
        80, 7, (0.1, 0.6), (96, 96), imgsz=96, images=ORIGINALS, links=5000, parts=(VALIDATION,)
    ),
    "100k": Shape(80, 7, (0.1, 0.6), (64, 64), imgsz=64, links=100_000, parts=(READING,)),
    "2m": Shape(80, 7, (0.1, 0.6), (64, 64), imgsz=64, links=2_000_000, parts=(READING,)),
}
"""COCO to compare with; street scenes; a first epoch; SKU-110K; aerial images; Open Images; photos
of 12 megapixels; Cityscapes; models with four levels; COCO's validation images, but small, because
the network is not what is measured; and data sets as large as COCO and Objects365."""


def make_data(shape: Shape, folder: Path) -> None:
    """Write a data set with this shape; the same one every time.

    Args:
        shape: its properties.
        folder: existing; receives the folders `images` and `labels`, and `model.yaml`.

    Raises:
        UserError: the file system has too few free inodes for the links.
    """
    import yaml

    from models.spec import load_spec
    from utils.datasets.index import build_index

    spec = load_spec(Path(shape.cfg)).with_classes(shape.classes)
    (folder / "model.yaml").write_text(yaml.safe_dump(spec.to_dict()), encoding="utf-8")
    if not shape.links:
        write_images(shape, shape.images, folder)
        return
    free = os.statvfs(folder).f_favail
    if 2 * shape.links > free // 2:
        raise UserError(
            f"{folder} has {free} free inodes, too few for {2 * shape.links} links; "
            "choose another --folder."
        )
    originals = folder / "originals"
    originals.mkdir()
    image_folder = write_images(shape, min(ORIGINALS, shape.links), originals)
    link_images(build_index([image_folder], class_names(shape)), shape.links, folder)


def write_images(shape: Shape, count: int, folder: Path) -> Path:
    """Write images of noise, and labels, into two new folders; return that of the images."""
    import cv2
    import numpy as np

    image_folder, label_folder = folder / "images", folder / "labels"
    image_folder.mkdir()
    label_folder.mkdir()
    rng = np.random.default_rng(0)
    noise = photo_like_noise(shape.size, rng)
    for number in range(count):
        image = np.roll(noise, tuple(rng.integers(shape.size)), axis=(0, 1))
        file = image_folder / f"{number:04d}{shape.suffix}"
        cv2.imwrite(str(file), image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        sides = rng.uniform(*shape.sides, (shape.objects, 2))
        centres = rng.uniform(sides / 2, 1 - sides / 2)
        classes = rng.integers(shape.classes, size=shape.objects)
        rows = np.column_stack([classes, centres, sides])
        np.savetxt(label_folder / f"{number:04d}.txt", rows, fmt="%d %.6f %.6f %.6f %.6f")
    return image_folder


def photo_like_noise(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return noise of several scales, uint8 [height, width, 3]."""
    import cv2
    import numpy as np

    height, width = size
    image = np.full((height, width, 3), 128, np.float32)
    for grain, deviation in OCTAVES:
        shape = (height // grain + 2, width // grain + 2, 3)
        coarse = rng.normal(0, deviation, shape).astype(np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return image.clip(0, 255).astype(np.uint8)


def class_names(shape: Shape) -> list[str]:
    """Return a name for each class."""
    return [f"class {number}" for number in range(shape.classes)]
