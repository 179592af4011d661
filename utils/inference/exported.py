"""Runs exported models with decoded boxes, of this program and of YOLOv5."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.head import BOX_FIELDS
from utils.errors import UserError
from utils.inference.sessions import DYNAMIC_KEY, Session, open_session, unreadable

HEADS_KEY = "yolov5_extend.heads"
"""Of the metadata; files of YOLOv5 have neither this key nor `DYNAMIC_KEY`."""
DECODED = "decoded"
DECODED_DIMENSIONS = 3
TRIAL_SIDE = 2
"""Strides; side of the image that a model of any size is tried with."""


@dataclass(frozen=True)
class ModelFacts:
    """What the metadata of a file say about its model."""

    names: tuple[str, ...]
    stride: int
    """Largest stride, px."""
    heads: str = DECODED
    """decoded, raw, sigmoid or nms; see `utils.export.heads.with_export_head`."""
    dynamic: bool = False
    """Whether it accepts images of any number and size."""

    def to_metadata(self) -> dict[str, Any]:
        """Return plain data: YOLOv5's keys `stride` and `names`, and our own."""
        shared = {"stride": self.stride, "names": dict(enumerate(self.names))}
        return shared | {HEADS_KEY: self.heads, DYNAMIC_KEY: self.dynamic}

    @staticmethod
    def from_metadata(found: Mapping[str, Any], path: Path) -> ModelFacts:
        """Read metadata, whose values may be texts.

        Raises:
            UserError: class names or stride are missing or invalid.
        """
        try:
            names = found["names"]
            names = ast.literal_eval(names) if isinstance(names, str) else names
            if isinstance(names, Mapping):
                names = [names[key] for key in sorted(names, key=int)]
            stride = int(found["stride"])
            if stride < 1 or not names:
                raise ValueError("no stride or no names")  # reported below
            return ModelFacts(
                names=tuple(map(str, names)),
                stride=stride,
                heads=str(found.get(HEADS_KEY, DECODED)),
                dynamic=str(found.get(DYNAMIC_KEY)) == "True",
            )
        except (LookupError, TypeError, ValueError, SyntaxError, MemoryError) as error:
            raise UserError(
                f"{path} has no class names and stride in its metadata; export the model with "
                "export.py, or use its .pt file."
            ) from error


class ExportedBackend:
    """Runs an exported model with decoded boxes; see `utils.inference.backend.Backend`.

    Args:
        session: the opened file.

    Raises:
        UserError: the model has no class names, has other outputs, or fails on an empty image.
    """

    def __init__(self, session: Session) -> None:
        facts = ModelFacts.from_metadata(session.metadata, session.path)
        self._session = session
        self.names = facts.names
        self.origin = str(session.path)
        self.max_stride = facts.stride
        self.input_size = session.size
        self.batch = session.batch
        self.device = session.device
        self.dtype = session.dtype
        if facts.heads != DECODED:
            how = "--nms" if facts.heads == "nms" else f"--heads {facts.heads}"
            raise UserError(
                f"{self.origin} was exported for other programs, with {how}; "
                "to run it here, export the model again without that option."
            )
        side = self.max_stride * TRIAL_SIDE
        try:
            self(torch.zeros(session.batch or 1, 3, *(session.size or (side, side))), 0)
        except session.errors as error:
            raise unreadable(session.path, "a detector", error) from error

    def __call__(self, images: Tensor, threshold: float) -> list[Tensor]:
        """Return the boxes above a threshold; see `utils.inference.backend.Backend`.

        Raises:
            UserError: the images have another size than the model accepts.
        """
        height, width = images.shape[2:]
        if self.input_size is not None and (height, width) != self.input_size:
            raise UserError(
                f"{self.origin} accepts images of {self.input_size[0]} x {self.input_size[1]} "
                f"pixels only, not {height} x {width}; use this --imgsz, or export the model with "
                "--dynamic."
            )
        images = images.to(self.device, self.dtype).contiguous()
        found: list[Tensor] = []
        for part in images.split(self.batch or len(images)):
            missing = (self.batch or len(part)) - len(part)
            filled = torch.cat((part, part.new_zeros(missing, 3, height, width)))
            found += [confident(rows, threshold) for rows in self._boxes(filled)[: len(part)]]
        return found

    def _boxes(self, images: Tensor) -> Tensor:
        """Return all boxes ``[B, N, 5 + classes]``, float32."""
        with torch.inference_mode():
            boxes = next(iter(self._session.run(images)), images.new_zeros(0))
        fields = BOX_FIELDS + len(self.names)
        if boxes.dim() != DECODED_DIMENSIONS or boxes.shape[2] != fields:
            raise UserError(
                f"{self.origin} returns values of shape {list(boxes.shape)}, not boxes with "
                f"{fields} values for its {len(self.names)} classes; use a model that export.py "
                "has written."
            )
        return boxes.float()


def confident(boxes: Tensor, threshold: float) -> Tensor:
    """Return the boxes ``[N, 5 + classes]`` whose best score is above a threshold."""
    boxes = boxes[boxes[:, BOX_FIELDS - 1] > threshold]
    return boxes[boxes[:, BOX_FIELDS:].amax(1) * boxes[:, BOX_FIELDS - 1] > threshold]


def open_exported(path: Path, device: torch.device, *, half: bool = False) -> ExportedBackend:
    """Open an exported model to detect with it.

    Raises:
        UserError: the file cannot be opened, is no detector, or computes in fp32 with `half`.
    """
    session = open_session(path, device)
    if half and session.dtype != torch.float16:
        raise UserError(f"{path} computes in fp32; omit --half, or export the model with --half.")
    return ExportedBackend(session)
