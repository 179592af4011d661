"""The results of a model that is called from Python."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageShow
from torch import Tensor

from utils.boxes import xyxy_to_xywh
from utils.errors import UserError
from utils.inference.outputs import OutputSettings, PredictionFiles, count_detections, crop_box
from utils.inference.predictor import Speed
from utils.inference.sources import SourceImage, file_name
from utils.runs.folder import create_run_folder

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = {
    "xyxy": ("xmin", "ymin", "xmax", "ymax"),
    "xywh": ("xcenter", "ycenter", "width", "height"),
}
"""Columns of the tables of `Results.pandas`, before confidence, class and name."""


class Tables(NamedTuple):
    """The detections of each image as a table with named columns; normalized if they end in n."""

    xyxy: list[DataFrame]
    xyxyn: list[DataFrame]
    xywh: list[DataFrame]
    xywhn: list[DataFrame]


class Results:
    """Detections of the images of one call; the best detection of an image is its first row.

    Args:
        images: the images, of one network shape.
        detections: for each image float32 [n, 6]: corners x1, y1, x2, y2 in pixels of the original,
            confidence, class.
        names: class names by index.
        speed: milliseconds per image.
    """

    def __init__(
        self,
        images: Sequence[SourceImage],
        detections: Sequence[np.ndarray],
        names: Mapping[int, str],
        speed: Speed,
    ) -> None:
        self._images = list(images)
        self._detections = list(detections)
        self.ims = [cv2.cvtColor(image.original, cv2.COLOR_BGR2RGB) for image in images]
        """The images, uint8 [h, w, 3] RGB; `render` draws into them."""
        self.files = [file_name(image.path).name for image in images]
        self.names = names
        self.n = len(self._images)
        self.s = (self.n, 3, *images[0].network.shape[:2])
        """Shape of the network input."""
        self.t = tuple(speed)
        """Milliseconds per image: preprocessing, inference, NMS."""
        self.times = tuple(ms * self.n / 1e3 for ms in speed)
        """Seconds of the call, likewise."""
        self.pred = self.xyxy = [torch.from_numpy(found) for found in detections]
        """For each image [n, 6]: corners in pixels, confidence, class."""
        self.xywh = [_with_boxes(found, xyxy_to_xywh(found[:, :4])) for found in self.xyxy]
        """Likewise, with centre and size."""
        self.xyxyn = [self._normalized(*pair) for pair in zip(self.xyxy, self.ims, strict=True)]
        self.xywhn = [self._normalized(*pair) for pair in zip(self.xywh, self.ims, strict=True)]

    @staticmethod
    def _normalized(found: Tensor, image: np.ndarray) -> Tensor:
        height, width = image.shape[:2]
        return _with_boxes(found, found[:, :4] / torch.tensor([width, height, width, height]))

    def __len__(self) -> int:
        return self.n

    def __str__(self) -> str:
        lines = [
            f"image {number}/{self.n}: {image.shape[0]}x{image.shape[1]} "
            f"{count_detections(found[:, 5], self.names)}"
            for number, (image, found) in enumerate(
                zip(self.ims, self._detections, strict=True), start=1
            )
        ]
        speed = "Speed: {:.1f}ms pre-process, {:.1f}ms inference, {:.1f}ms NMS per image"
        return "\n".join([*lines, f"{speed.format(*self.t)} at shape {self.s}"])

    def print(self) -> None:
        """Print what was found in each image, and the speed."""
        sys.stdout.write(f"{self}\n")

    def render(self, labels: bool = True) -> list[np.ndarray]:
        """Draw the boxes into `ims`, with class and confidence unless `labels` is False."""
        files = self._files(Path(), images=True, hide_labels=not labels)
        pairs = zip(self._images, self._detections, strict=True)
        drawn = [files.annotate(image, found) for image, found in pairs]
        self.ims = [cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in drawn]
        return self.ims

    def show(self, labels: bool = True) -> None:
        """Show the images with their boxes, in the notebook or in the viewer of the system.

        Raises:
            UserError: there is none.
        """
        for image in map(Image.fromarray, self.render(labels)):
            if "ipykernel" in sys.modules:
                from IPython.display import display

                display(image)
            elif not ImageShow.show(image):
                raise UserError("there is no program to show images; use save() instead of show().")

    def save(
        self,
        labels: bool = True,
        save_dir: str | Path = "runs/detect/exp",
        exist_ok: bool = False,
    ) -> Path:
        """Write the images with their boxes.

        Args:
            labels: also draw class and confidence.
            save_dir: the folder; numbered if it exists.
            exist_ok: write into an existing folder.

        Returns:
            The folder.
        """
        return self._write(save_dir, exist_ok=exist_ok, images=True, hide_labels=not labels)

    def crop(
        self,
        save: bool = True,
        save_dir: str | Path = "runs/detect/exp",
        exist_ok: bool = False,
    ) -> list[dict[str, Any]]:
        """Return the part of the image around each detection, the least confident first.

        Args:
            save: also write them to `save_dir`/crops.
            save_dir: the folder; numbered if it exists.
            exist_ok: write into an existing folder.

        Returns:
            For each detection `box`, its corners; `conf`; `cls`; `label`, class and confidence; and
            `im`, uint8 [h, w, 3] BGR, as OpenCV shows and writes it.
        """
        if save:
            self._write(save_dir, exist_ok=exist_ok, images=False, crops=True)
        return [
            {
                "box": list(row[:4]),
                "conf": row[4],
                "cls": row[5],
                "label": f"{self.names[int(row[5])]} {row[4]:.2f}",
                "im": crop_box(image.original, row[:4].numpy()),
            }
            for image, found in zip(self._images, self.xyxy, strict=True)
            for row in found.flip(0)
        ]

    def pandas(self) -> Tables:
        """Return the detections as tables, whose columns are named."""
        import pandas as pd

        def tables(kind: str, of_images: Sequence[Tensor]) -> list[pd.DataFrame]:
            columns = [*COLUMNS[kind], "confidence", "class", "name"]
            rows = [
                [[*row[:5], int(row[5]), self.names[int(row[5])]] for row in found.tolist()]
                for found in of_images
            ]
            return [pd.DataFrame(of_image, columns=columns) for of_image in rows]

        return Tables(
            tables("xyxy", self.xyxy),
            tables("xyxy", self.xyxyn),
            tables("xywh", self.xywh),
            tables("xywh", self.xywhn),
        )

    def tolist(self) -> list[Results]:
        """Return the results of each image on its own."""
        pairs = zip(self._images, self._detections, strict=True)
        return [Results([image], [found], self.names, Speed(*self.t)) for image, found in pairs]

    def _files(self, folder: Path, **settings: bool) -> PredictionFiles:
        names = [self.names[label] for label in range(len(self.names))]
        return PredictionFiles(folder, names, OutputSettings(**settings))

    def _write(self, save_dir: str | Path, *, exist_ok: bool, **settings: bool) -> Path:
        parent, name = Path(save_dir).parent, Path(save_dir).name
        folder = create_run_folder(parent, name, exist_ok)
        with self._files(folder, **settings) as files:
            pairs = zip(self._images, self._detections, strict=True)
            for number, (image, found) in enumerate(pairs, start=1):
                files.write(image._replace(number=number), found)  # names may be equal
        return folder


def _with_boxes(found: Tensor, boxes: Tensor) -> Tensor:
    return torch.cat((boxes, found[:, 4:]), 1)
