"""Model specification: the content of a model file as immutable data. Imports no torch."""

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
OPTIONAL_KEYS = ("activation", "ch")
IMAGE_CHANNELS = 3
MAX_ANCHORS = 100  # per level
ROW_LENGTH = 4
HEAD_KIND = "Detect"


@dataclass(frozen=True)
class LayerSpec:
    """One layer, a row ``[sources, repeats, kind, args]`` of a model file."""

    sources: tuple[int, ...]
    """Indices of the input layers; negative indices are relative to this layer."""
    repeats: int
    """Number of repetitions of the inner block, before the depth multiple."""
    kind: str
    """One of `models.builders.KINDS`."""
    args: tuple[Any, ...]
    """Arguments, usually output channels first, before the width multiple."""


@dataclass(frozen=True)
class ModelSpec:
    """Specification of a model, as in its YAML file: multiples, anchors and layers."""

    classes: int
    depth_multiple: float
    width_multiple: float
    anchors: tuple[tuple[float, ...], ...]
    """Pixels of the network input; for each detection level a flat row w, h, w, h, ..."""
    layers: tuple[LayerSpec, ...]
    """Layers of backbone and head; the last one is the detection head."""
    backbone_length: int
    """Number of layers that the file lists under `backbone`."""
    activation: str = ""
    """Replaces SiLU, see `models.builders.ACTIVATIONS`; empty: it does not."""
    anchors_to_fit: int = 0
    """Anchors per level that a new run fits to its data: `anchors: N`. Until then `anchors` has
    this number of squares, half to twice as large as eight cells of an imagined level."""

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise UserError(f"model spec: nc is {self.classes}; it must be at least 1.")
        if not self.layers or self.layers[-1].kind != HEAD_KIND:
            raise UserError(
                f"model spec: the last layer is not {HEAD_KIND}; end `head` with a {HEAD_KIND} row."
            )
        levels = len(self.layers[-1].sources)
        if len(self.anchors) != levels:
            raise UserError(
                f"model spec: there are {len(self.anchors)} rows of anchors for {levels} detection "
                "levels; give one row w, h, w, h, ... in pixels per level."
            )
        lengths = {len(row) for row in self.anchors}
        if len(lengths) != 1 or 0 in lengths or min(lengths) % 2:
            raise UserError(
                "model spec: the rows of anchors have different or odd lengths; "
                "give the same number of pairs w, h in each row."
            )

    @staticmethod
    def from_dict(d: Mapping[str, object]) -> ModelSpec:
        """Build a specification from plain data in the schema of YOLOv5's model files.

        Raises:
            UserError: a key is missing or unknown, or a row of the table is malformed.
        """
        missing = [key for key in REQUIRED_KEYS if key not in d]
        if missing:
            raise UserError(
                f"model spec: key {', '.join(missing)} is missing; add it, as in yolov5n.yaml."
            )
        unknown = sorted(set(map(str, d)) - {*REQUIRED_KEYS, *OPTIONAL_KEYS})
        if unknown:
            raise UserError(
                f"model spec: unknown key {', '.join(unknown)}; "
                f"known keys are {', '.join((*REQUIRED_KEYS, *OPTIONAL_KEYS))}."
            )
        if d.get("ch", IMAGE_CHANNELS) != IMAGE_CHANNELS:  # upstream adds it to its checkpoints
            raise UserError(
                f"model spec: ch is {d['ch']!r}, but images are read with {IMAGE_CHANNELS} "
                "channels; remove the key."
            )
        backbone, head = _table(d["backbone"], "backbone"), _table(d["head"], "head")
        layers = backbone + head
        count = _anchors_to_fit(d["anchors"])
        levels = len(layers[-1].sources) if layers else 0
        rows = [[4.0 * 2**level] * 2 * count for level in range(levels)]
        return ModelSpec(
            classes=int(_number(d, "nc")),
            depth_multiple=_number(d, "depth_multiple"),
            width_multiple=_number(d, "width_multiple"),
            anchors=_anchor_rows(rows if count else d["anchors"]),
            layers=layers,
            backbone_length=len(backbone),
            activation=str(d.get("activation") or ""),
            anchors_to_fit=count,
        )

    def to_dict(self) -> dict[str, object]:
        """Return plain data in the same schema; `from_dict` restores the specification from it."""
        rows = []
        for layer in self.layers:
            sources = layer.sources[0] if len(layer.sources) == 1 else list(layer.sources)
            rows.append([sources, layer.repeats, layer.kind, _thaw(layer.args)])
        return {
            "nc": self.classes,
            **({"activation": self.activation} if self.activation else {}),
            "depth_multiple": self.depth_multiple,
            "width_multiple": self.width_multiple,
            "anchors": self.anchors_to_fit or _thaw(self.anchors),
            "backbone": rows[: self.backbone_length],
            "head": rows[self.backbone_length :],
        }

    def with_classes(self, classes: int) -> ModelSpec:
        """Return the specification with another number of classes."""
        return dataclasses.replace(self, classes=classes)

    def with_anchors(self, anchors: Sequence[Sequence[float]]) -> ModelSpec:
        """Return the specification with other anchors: rows w, h, w, h, ... in pixels."""
        rows = tuple(tuple(float(side) for side in row) for row in anchors)
        return dataclasses.replace(self, anchors=rows, anchors_to_fit=0)


def load_spec(path: str | Path) -> ModelSpec:
    """Read a model file; if it does not exist, search for its name in models/.

    Raises:
        UserError: the file does not exist, or is not a model specification.
    """
    file = Path(path)
    if not file.is_file():
        file = MODEL_FOLDER / file.name
    if not file.is_file():
        published = ", ".join(sorted(model.name for model in MODEL_FOLDER.glob("*.yaml")))
        raise UserError(f"model file {path} does not exist; published models are {published}.")
    values = read_yaml(file)
    if not isinstance(values, dict):
        raise UserError(
            f"model file {path} is not a mapping; write the keys {', '.join(REQUIRED_KEYS)}."
        )
    return ModelSpec.from_dict(values)


def _number(d: Mapping[str, object], key: str) -> float:
    value = d[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise UserError(f"model spec: {key} is {value!r}; it must be a number above 0.")
    return value


def _table(rows: object, section: str) -> tuple[LayerSpec, ...]:
    if not isinstance(rows, list):
        raise UserError(
            f"model spec: {section} is not a list; "
            "write one row [from, number, module, [args]] for each layer."
        )
    return tuple(_layer(row, f"{section} row {position}") for position, row in enumerate(rows))


def _layer(row: object, origin: str) -> LayerSpec:
    if not isinstance(row, list) or len(row) != ROW_LENGTH or not isinstance(row[3], list):
        raise UserError(f"model spec: {origin} is malformed; write [from, number, module, [args]].")
    sources, repeats, kind, args = row
    sources = sources if isinstance(sources, list) else [sources]
    if not all(isinstance(number, int) for number in [*sources, repeats]) or repeats < 1:
        raise UserError(
            f"model spec: {origin} has an invalid `from` or `number`; "
            "use integers, with `number` at least 1."
        )
    return LayerSpec(tuple(sources), repeats, str(kind), tuple(map(_freeze, args)))


def _anchors_to_fit(anchors: object) -> int:
    """Return the number of `anchors: N`; 0 if the anchors are listed."""
    if isinstance(anchors, bool) or not isinstance(anchors, int):
        return 0
    if not 1 <= anchors <= MAX_ANCHORS:
        raise UserError(
            f"model spec: anchors is {anchors}; give a number per level from 1 to {MAX_ANCHORS}, "
            "or one row w, h, w, h, ... in pixels for each level."
        )
    return anchors


def _anchor_rows(anchors: object) -> tuple[tuple[float, ...], ...]:
    rows = anchors if isinstance(anchors, list) else [anchors]
    for row in rows:
        if not isinstance(row, list) or not all(isinstance(side, int | float) for side in row):
            raise UserError(
                "model spec: anchors is not a list of numeric rows; "
                "write one row w, h, w, h, ... in pixels for each level, or the number of anchors "
                "per level to fit."
            )
    return tuple(map(tuple, rows))


def _freeze(value: object) -> object:
    return tuple(map(_freeze, value)) if isinstance(value, list) else value


def _thaw(value: object) -> object:
    return list(map(_thaw, value)) if isinstance(value, tuple) else value
