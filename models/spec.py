"""Model specification: the layer table of a YAML file as frozen plain data. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files.yaml_file import read_yaml

MODEL_FOLDER = Path(__file__).resolve().parent
REQUIRED_KEYS = ("nc", "depth_multiple", "width_multiple", "anchors", "backbone", "head")
IGNORED_KEYS = ("ch",)
"""Input channels, which upstream adds to the copy inside its checkpoints; ours are an argument."""
ROW_LENGTH = 4
HEAD_KIND = "Detect"


@dataclass(frozen=True)
class LayerSpec:
    """One row of the table, ``[sources, repeats, kind, args]``."""

    sources: tuple[int, ...]
    """Layers whose outputs are the inputs; negative ones count back from this layer."""
    repeats: int
    """How often the layer's inner block is repeated, before the depth multiple."""
    kind: str
    """Name of the layer in the table of `models.builders`."""
    args: tuple[Any, ...]
    """Arguments, output channels first, before the width multiple."""


@dataclass(frozen=True)
class ModelSpec:
    """A model as its YAML file describes it: multiples, anchors and layers."""

    classes: int
    depth_multiple: float
    width_multiple: float
    anchors: tuple[tuple[float, ...], ...]
    """Pixels of the network input; per detection level a flat row w, h, w, h, ..."""
    layers: tuple[LayerSpec, ...]
    """Backbone, then head; the last one is the detection head."""
    backbone_length: int
    """How many of the layers the file lists under `backbone`."""

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise UserError(f"model spec: nc is {self.classes}; a detector needs a class at least.")
        if not self.layers or self.layers[-1].kind != HEAD_KIND:
            raise UserError(f"model spec: the last layer must be {HEAD_KIND}.")
        levels = len(self.layers[-1].sources)
        if len(self.anchors) != levels:
            raise UserError(
                f"model spec: {len(self.anchors)} rows of anchors for {levels} detection levels; "
                "give one row w, h, w, h, ... in pixels per level."
            )
        lengths = {len(row) for row in self.anchors}
        if len(lengths) != 1 or 0 in lengths or min(lengths) % 2:
            raise UserError(
                "model spec: each row of anchors must hold as many pairs w, h as the others."
            )

    @staticmethod
    def from_dict(d: Mapping[str, object]) -> ModelSpec:
        """Build from plain data in the schema of YOLOv5's model files.

        Raises:
            UserError: a key is missing or unknown, or a row of the table is malformed.
        """
        missing = [key for key in REQUIRED_KEYS if key not in d]
        if missing:
            raise UserError(f"model spec: {', '.join(missing)} missing; see models/yolov5n.yaml.")
        unknown = sorted(set(d) - {*REQUIRED_KEYS, *IGNORED_KEYS})
        if unknown:
            raise UserError(
                f"model spec: {', '.join(unknown)} not supported; remove it or use one of the "
                "published yolov5 models."
            )
        backbone, head = _table(d["backbone"], "backbone"), _table(d["head"], "head")
        return ModelSpec(
            classes=int(_number(d, "nc")),
            depth_multiple=_number(d, "depth_multiple"),
            width_multiple=_number(d, "width_multiple"),
            anchors=_anchor_rows(d["anchors"]),
            layers=backbone + head,
            backbone_length=len(backbone),
        )

    def to_dict(self) -> dict[str, object]:
        """Plain data in the same schema; `from_dict` of it equals this spec."""
        rows = [
            [
                layer.sources[0] if len(layer.sources) == 1 else list(layer.sources),
                layer.repeats,
                layer.kind,
                _thaw(layer.args),
            ]
            for layer in self.layers
        ]
        return {
            "nc": self.classes,
            "depth_multiple": self.depth_multiple,
            "width_multiple": self.width_multiple,
            "anchors": _thaw(self.anchors),
            "backbone": rows[: self.backbone_length],
            "head": rows[self.backbone_length :],
        }

    def with_classes(self, classes: int) -> ModelSpec:
        """The same model for another number of classes."""
        return dataclasses.replace(self, classes=classes)

    def with_anchors(self, anchors: Sequence[Sequence[float]]) -> ModelSpec:
        """The same model with other anchors: pixels, a flat row w, h, w, h, ... per level."""
        rows = tuple(tuple(float(side) for side in row) for row in anchors)
        return dataclasses.replace(self, anchors=rows)


def load_spec(path: str | Path) -> ModelSpec:
    """Read a model file; a bare name such as ``yolov5n.yaml`` is looked for in models/ too.

    Raises:
        UserError: no such file, or not a model specification.
    """
    file = Path(path)
    if not file.is_file():
        file = MODEL_FOLDER / file.name
    if not file.is_file():
        ready = ", ".join(sorted(model.name for model in MODEL_FOLDER.glob("*.yaml")))
        raise UserError(f"model file {path} does not exist; ready ones are {ready}.")
    values = read_yaml(file)
    if not isinstance(values, dict):
        raise UserError(f"model file {path} must hold {', '.join(REQUIRED_KEYS)}.")
    return ModelSpec.from_dict(values)


def _number(d: Mapping[str, object], key: str) -> float:
    value = d[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise UserError(f"model spec: {key} is {value!r}; it must be a number above 0.")
    return value


def _table(rows: object, section: str) -> tuple[LayerSpec, ...]:
    if not isinstance(rows, list):
        raise UserError(f"model spec: {section} must be a list of rows.")
    return tuple(_layer(row, f"{section} row {position}") for position, row in enumerate(rows))


def _layer(row: object, origin: str) -> LayerSpec:
    if not isinstance(row, list) or len(row) != ROW_LENGTH or not isinstance(row[3], list):
        raise UserError(f"model spec: {origin} must be [from, number, module, [args]].")
    sources, repeats, kind, args = row
    sources = sources if isinstance(sources, list) else [sources]
    if not all(isinstance(number, int) for number in [*sources, repeats]) or repeats < 1:
        raise UserError(f"model spec: {origin} needs whole numbers for from and number.")
    return LayerSpec(tuple(sources), repeats, str(kind), tuple(map(_freeze, args)))


def _anchor_rows(anchors: object) -> tuple[tuple[float, ...], ...]:
    rows = anchors if isinstance(anchors, list) else [anchors]
    for row in rows:
        if not isinstance(row, list) or not all(isinstance(side, int | float) for side in row):
            raise UserError("model spec: anchors must be a list of rows w, h, w, h, ... in pixels.")
    return tuple(map(tuple, rows))


def _freeze(value: object) -> object:
    return tuple(map(_freeze, value)) if isinstance(value, list) else value


def _thaw(value: object) -> object:
    return list(map(_thaw, value)) if isinstance(value, tuple) else value
