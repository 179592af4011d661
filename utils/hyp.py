"""Hyper-parameters as a frozen dataclass that rejects unknown keys and invalid values."""

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
MOSAIC_BATCHES = 8
"""Mosaics combine the images of so many consecutive batches of an epoch."""
PROBABILITIES = ("flipud", "fliplr", "mosaic", "mixup", "copy_paste")
MAX_VALUE = 1000
"""Of hyper-parameters without a limit of their own: far more than makes sense, but no overflow."""
MAX_VALUES = {
    **dict.fromkeys(("lrf", *PROBABILITIES), 1),
    **{"warmup_epochs": 1_000_000, "anchors": 100, "shear": 89, "perspective": 1},
}


@dataclass(frozen=True)
class Hyp:
    """The keys of a hyp file; the defaults are those of hyp/hyp.scratch-low.yaml."""

    lr0: float = 0.01
    """Initial learning rate."""
    lrf: float = 0.01
    """Final learning rate as a fraction of lr0."""
    momentum: float = 0.937
    """SGD momentum, or beta1 of Adam and AdamW."""
    weight_decay: float = 0.0005
    """For the nominal batch size; scaled with the effective one."""
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
    """Unused by the shape-ratio assignment; kept for compatibility with published files."""
    anchor_t: float = 4.0
    """Maximum ratio between the side of a box and that of its anchor."""
    anchors: float = 0.0
    """Anchors per level to fit to the data, 0 to keep the number of the model."""
    fl_gamma: float = 0.0
    """Focal-loss gamma, 0 for plain cross-entropy."""
    hsv_h: float = 0.015
    """Maximum relative change of hue."""
    hsv_s: float = 0.7
    """Maximum relative change of saturation."""
    hsv_v: float = 0.4
    """Maximum relative change of value."""
    degrees: float = 0.0
    """Maximum rotation in degrees."""
    translate: float = 0.1
    """Maximum translation as a fraction of the image size."""
    scale: float = 0.5
    """Maximum relative change of scale."""
    shear: float = 0.0
    """Maximum shear in degrees."""
    perspective: float = 0.0
    """Maximum perspective coefficient, 0 to 0.001."""
    flipud: float = 0.0
    """Probability of a vertical flip."""
    fliplr: float = 0.5
    """Probability of a horizontal flip."""
    mosaic: float = 1.0
    """Probability of a mosaic of four images."""
    mixup: float = 0.0
    """Probability that a mosaic is blended with another one."""
    copy_paste: float = 0.0
    """Probability of copy-paste of objects between images; requires segment labels."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(
                    f"hyp: {field.name} {value!r}: must be a number, such as 0.01 or 1.0e-2."
                )
            if not 0 <= value < math.inf:
                raise UserError(f"hyp: {field.name} {value}: must be at least 0 and finite.")
            if value > (most := MAX_VALUES.get(field.name, MAX_VALUE)):
                raise UserError(f"hyp: {field.name} {value}: must be between 0 and {most}.")
        if self.lr0 <= 0:
            raise UserError(f"hyp: lr0 {self.lr0}: must be greater than 0.")
        for name in ("momentum", "warmup_momentum"):
            if getattr(self, name) >= 1:
                raise UserError(
                    f"hyp: {name} {getattr(self, name)}: must be at least 0 and less than 1."
                )
        if self.anchor_t <= 1:
            raise UserError(f"hyp: anchor_t {self.anchor_t}: must be greater than 1.")

    @staticmethod
    def from_dict(values: Mapping[str, Any], origin: str) -> Hyp:  # __post_init__ checks the values
        """Build from plain data; `origin`, such as a file name, begins the error message.

        Raises:
            UserError: if a key is unknown or a value invalid.
        """
        known = {field.name for field in dataclasses.fields(Hyp)}
        unknown = sorted(set(map(str, values)) - known)
        if unknown:
            raise UserError(
                f"{origin}: unknown key {', '.join(unknown)}; "
                f"known keys are {', '.join(sorted(known))}."
            )
        return Hyp(**values)

    def to_dict(self) -> dict[str, float]:
        """Plain data, in the order of the fields."""
        return dataclasses.asdict(self)


def load_hyp(path: str | Path) -> Hyp:
    """Read a hyp file; if it does not exist, read the file of that name in hyp/.

    Raises:
        UserError: if there is no such file, it is not a mapping, or a key or value is invalid.
    """
    file = Path(path)
    if not file.is_file() and (HYP_FOLDER / file.name).is_file():
        file = HYP_FOLDER / file.name
    if not file.is_file():
        raise UserError(
            f"hyp file {path} does not exist; "
            f"give the path of a file, or the name of one in {HYP_FOLDER.name}/."
        )
    values = read_yaml(file)
    if not isinstance(values, dict):
        raise UserError(f"hyp file {path} is not a mapping; write `name: value` lines.")
    return Hyp.from_dict(values, origin=f"hyp file {path}")
