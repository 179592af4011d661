"""Hyper-parameters as one frozen record; unknown keys and impossible values are refused."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files.yaml_file import read_yaml

HYP_FOLDER = Path(__file__).resolve().parent.parent / "hyp"
PROBABILITIES = ("flipud", "fliplr", "mosaic", "mixup", "copy_paste")


@dataclass(frozen=True)
class Hyp:
    """What a hyp file may set; the defaults are those of hyp/hyp.scratch-low.yaml."""

    lr0: float = 0.01
    """Initial learning rate."""
    lrf: float = 0.01
    """Final learning rate as a fraction of lr0."""
    momentum: float = 0.937
    """SGD momentum, or beta1 of Adam and AdamW."""
    weight_decay: float = 0.0005
    """For the nominal batch; scaled with the batch really used."""
    warmup_epochs: float = 3.0
    """Length of the warm-up; at least 100 iterations."""
    warmup_momentum: float = 0.8
    """Momentum at the first iteration."""
    warmup_bias_lr: float = 0.1
    """Learning rate of the biases at the first iteration."""
    box: float = 0.05
    """Gain of the box loss."""
    cls: float = 0.5
    """Gain of the class loss, for 80 classes and 3 levels."""
    cls_pw: float = 1.0
    """Weight of positives in the class loss."""
    obj: float = 1.0
    """Gain of the objectness loss, for 640-pixel images and 3 levels."""
    obj_pw: float = 1.0
    """Weight of positives in the objectness loss."""
    iou_t: float = 0.2
    """Carried for compatibility of the files; the shape-ratio assignment does not use it."""
    anchor_t: float = 4.0
    """Largest ratio between a side of a box and of its anchor."""
    anchors: float = 0.0
    """Anchors per level to fit anew, 0 to keep the model's."""
    fl_gamma: float = 0.0
    """Focal-loss gamma, 0 for plain cross-entropy."""
    hsv_h: float = 0.015
    """Largest relative change of hue."""
    hsv_s: float = 0.7
    """Largest relative change of saturation."""
    hsv_v: float = 0.4
    """Largest relative change of value."""
    degrees: float = 0.0
    """Largest rotation, degrees."""
    translate: float = 0.1
    """Largest shift, fraction of the image size."""
    scale: float = 0.5
    """Largest change of scale, as a fraction."""
    shear: float = 0.0
    """Largest shear, degrees."""
    perspective: float = 0.0
    """Largest perspective coefficient, 0 to 0.001."""
    flipud: float = 0.0
    """Probability of an up-down flip."""
    fliplr: float = 0.5
    """Probability of a left-right flip."""
    mosaic: float = 1.0
    """Probability of a mosaic of four images."""
    mixup: float = 0.0
    """Probability that a mosaic is blended with another one."""
    copy_paste: float = 0.0
    """Probability of copying objects between images; needs segment labels."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(
                    f"hyp: {field.name} is {value!r}; give it a number, such as 0.01 or 1.0e-2."
                )
            if not 0 <= value < math.inf:
                raise UserError(f"hyp: {field.name} is {value}; give a finite number from 0 up.")
        for name in PROBABILITIES:
            if getattr(self, name) > 1:
                raise UserError(
                    f"hyp: {name} is {getattr(self, name)}; a probability is at most 1."
                )
        if self.lr0 <= 0 or self.lrf > 1:
            raise UserError("hyp: lr0 must be above 0 and lrf, its final fraction, at most 1.")
        for name in ("momentum", "warmup_momentum"):
            if getattr(self, name) >= 1:
                raise UserError(f"hyp: {name} is {getattr(self, name)}; it must be below 1.")
        if self.anchor_t <= 1:
            raise UserError(f"hyp: anchor_t is {self.anchor_t}; a ratio of sides must be above 1.")

    @staticmethod
    def from_dict(values: Mapping[str, Any], origin: str) -> Hyp:
        """Build from plain data.

        Raises:
            UserError: a key is unknown or a value impossible; the message begins with `origin`.
        """
        known = {field.name for field in dataclasses.fields(Hyp)}
        unknown = sorted(set(map(str, values)) - known)
        if unknown:
            raise UserError(
                f"{origin}: unknown hyper-parameter {', '.join(unknown)}; "
                f"known are {', '.join(sorted(known))}."
            )
        return Hyp(**values)

    def to_dict(self) -> dict[str, float]:
        """Plain data, in the order of the fields."""
        return dataclasses.asdict(self)


def load_hyp(path: str | Path) -> Hyp:
    """Read a hyp file; a bare name is looked for in hyp/ too.

    Raises:
        UserError: no such file, not a mapping, or a value or key that is refused.
    """
    file = Path(path)
    if not file.is_file() and (HYP_FOLDER / file.name).is_file():
        file = HYP_FOLDER / file.name
    if not file.is_file():
        raise UserError(f"hyp file {path} does not exist; ready ones are in {HYP_FOLDER.name}/.")
    values = read_yaml(file)
    if not isinstance(values, dict):
        raise UserError(f"hyp file {path} must hold `name: value` lines.")
    return Hyp.from_dict(values, origin=f"hyp file {path}")
