"""Assigns targets to cells and anchors, and excludes ignored cells from the objectness loss."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NO_STEP = (0.0, 0.0)
NEIGHBOUR_STEPS = (NO_STEP, (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))
"""Offsets (x, y) subtracted to reach the own cell and its left, upper, right, lower neighbour."""


class Assignment(NamedTuple):
    """Positive cells of one level; a cell may occur several times, with different targets."""

    image: Tensor
    """Index of the image in the batch, int64 ``[n]``."""
    anchor: Tensor
    """Index of the anchor in its level, int64 ``[n]``."""
    row: Tensor
    """Row of the cell, int64 ``[n]``."""
    col: Tensor
    """Column of the cell, int64 ``[n]``."""
    boxes: Tensor
    """Target boxes ``[n, 4]`` in cells: centre relative to the cell's upper-left corner, size."""
    classes: Tensor
    """Class of each target, int64 ``[n]``."""
    anchor_sizes: Tensor
    """Width and height of each anchor ``[n, 2]`` in cells."""


class ShapeRatioAssigner:
    """YOLOv5's assignment: each target is assigned to all fitting anchors in up to three cells.

    An anchor fits if both of its sides differ from the target's by less than the ratio limit. The
    cells are the one that contains the centre and, on each axis, the nearest neighbour, if it
    exists.

    Args:
        anchors: ``[L, A, 2]`` width and height in cells of each level; targets must be on the
            same device.
        ratio_limit: limit of the ratio between a side of a target and of its anchor.
        neighbour_offset: maximum distance, in cells, of a centre to a cell border for the
            neighbour behind it to be positive too; 0.5 gives one neighbour on each axis.
    """

    def __init__(
        self, anchors: Tensor, ratio_limit: float = 4.0, neighbour_offset: float = 0.5
    ) -> None:
        self.anchors = anchors.detach().clone().float()
        self.ratio_limit = ratio_limit
        self.neighbour_offset = neighbour_offset
        self._steps = self.anchors.new_tensor(NEIGHBOUR_STEPS) * neighbour_offset  # [5, 2]

    def __call__(self, targets: Tensor, grid_sizes: Sequence[tuple[int, int]]) -> list[Assignment]:
        """Assign targets to cells and anchors of every level.

        Args:
            targets: ``[n, 6]``: image index, class, centre and size as fractions of the
                network input; n may be 0.
            grid_sizes: height and width of each level, in cells.
        """
        return [
            self._assign_level(targets, anchors, height, width)
            for anchors, (height, width) in zip(self.anchors, grid_sizes, strict=True)
        ]

    def _assign_level(
        self, targets: Tensor, anchors: Tensor, height: int, width: int
    ) -> Assignment:
        # Multiplying columns by Python numbers avoids a synchronizing copy of a tensor to the GPU.
        centres = torch.stack((targets[:, 2] * width, targets[:, 3] * height), 1)  # [n, 2]
        sizes = torch.stack((targets[:, 4] * width, targets[:, 5] * height), 1)  # [n, 2]

        fits = self._shape_fits(sizes, anchors)  # [A, n]
        reached = self._reached_cells(centres, height, width)  # [5, n]
        step, anchor, target = (reached[:, None] & fits).nonzero(as_tuple=True)

        centres = centres[target]
        cells = (centres - self._steps[step]).long()
        # A centre on the right or lower image border is outside the last cell, hence the clamp.
        col, row = cells[:, 0].clamp(0, width - 1), cells[:, 1].clamp(0, height - 1)
        offsets = centres - torch.stack((col, row), 1)
        return Assignment(
            image=targets[target, 0].long(),
            anchor=anchor,
            row=row,
            col=col,
            boxes=torch.cat((offsets, sizes[target]), 1),
            classes=targets[target, 1].long(),
            anchor_sizes=anchors[anchor],
        )

    def _shape_fits(self, sizes: Tensor, anchors: Tensor) -> Tensor:
        """Return whether anchors ``[A, 2]`` fit sizes ``[n, 2]`` (cells), booleans ``[A, n]``."""
        ratio = sizes / anchors[:, None]  # [A, n, 2]
        return torch.maximum(ratio, 1 / ratio).amax(2) < self.ratio_limit

    def _reached_cells(self, centres: Tensor, height: int, width: int) -> Tensor:
        """Return which cells are positive for centres ``[n, 2]`` in cells, booleans ``[5, n]``.

        They are in the order of `NEIGHBOUR_STEPS`. A neighbour is positive if the centre is near
        the common border and the neighbour exists.
        """
        in_cell = centres % 1
        before = (in_cell < self.neighbour_offset) & (centres > 1)  # [n, 2]
        has_next = torch.stack((centres[:, 0] < width - 1, centres[:, 1] < height - 1), 1)
        after = (in_cell > 1 - self.neighbour_offset) & has_next
        own = torch.ones_like(before[:, :1])
        return torch.cat((own, before, after), 1).T


def objectness_weight(
    ignored: Tensor | None, assignment: Assignment, shape: Sequence[int]
) -> Tensor | None:
    """Return the weight of each cell in the objectness loss, ``[B, A, h, w]``; None if all are 1.

    Cells with their centre in an ignore region have weight 0, so that they are not trained as
    background. All other cells, and positive cells in ignore regions, have weight 1. The mean is
    still over all cells, so that the loss of other cells does not depend on the ignored area.

    Args:
        ignored: ``[m, 5]``: image index, centre and size as fractions of the network input.
        assignment: the positive cells.
        shape: B, A, h, w.
    """
    if ignored is None or not len(ignored):
        return None
    images, anchors, height, width = shape
    counts = ~ignored_cells(ignored, (images, height, width))[:, None]  # [B, 1, h, w]
    weight = counts.float().repeat(1, anchors, 1, 1)
    weight[assignment.image, assignment.anchor, assignment.row, assignment.col] = 1.0
    return weight


def ignored_cells(ignored: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return which cells have their centre in an ignore region or on its border, ``[B, h, w]``.

    See `objectness_weight`; the shape is B, h, w.
    """
    images, height, width = shape
    columns = (torch.arange(width, device=ignored.device) + 0.5) / width
    rows = (torch.arange(height, device=ignored.device) + 0.5) / height
    across = (columns - ignored[:, 1:2]).abs() <= ignored[:, 3:4] / 2  # [m, w]
    down = (rows - ignored[:, 2:3]).abs() <= ignored[:, 4:5] / 2  # [m, h]
    own = ignored[:, 0] == torch.arange(images, device=ignored.device)[:, None]  # [B, m]
    # Count the regions that cover each cell by a matrix product; one map per region is too large.
    counts = (own[:, :, None] & down).float().mT @ across.float()  # [B, h, w]
    return counts > 0
