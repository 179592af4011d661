"""Assigns targets to cells and anchors, and excludes ignored cells from the objectness loss."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from utils.runtime.device import to_device

NO_STEP = (0.0, 0.0)
NEIGHBOUR_STEPS = (NO_STEP, (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))
"""Offsets (x, y) subtracted to reach the own cell and its left, upper, right, lower neighbour."""


class Assignment(NamedTuple):
    """The n positive cells of all levels, fine to coarse.

    A cell may occur several times, with different targets.
    """

    image: Tensor
    """Index of the image in the batch, int64 ``[n]``."""
    anchor: Tensor
    """Index of the anchor in its level, int64 ``[n]``."""
    row: Tensor
    """Row of the cell, int64 ``[n]``."""
    col: Tensor
    """Column of the cell, int64 ``[n]``."""
    classes: Tensor
    """Class of each target, int64 ``[n]``."""
    cell: Tensor
    """Position of the cell and anchor among those of all levels, int64 ``[n]``."""
    last: Tensor
    """Index of the last of the n that has the same cell and anchor, int64 ``[n]``."""
    boxes: Tensor
    """Target boxes ``[n, 4]`` in cells: centre relative to the cell's upper-left corner, size."""
    anchor_sizes: Tensor
    """Width and height of each anchor ``[n, 2]`` in cells."""
    counts: tuple[int, ...]
    """Number of the positive cells of each level; their sum is n."""

    def to(self, device: torch.device) -> "Assignment":
        """Copy to a device, in two transfers that the host does not wait for."""
        if device == self.cell.device:
            return self
        indices = to_device(torch.stack(self[:7]), device)
        sizes = to_device(torch.cat((self.boxes, self.anchor_sizes), 1), device)
        image, anchor, row, col, classes, cell, last = indices.unbind()
        return Assignment(
            *(image, anchor, row, col, classes, cell, last),
            boxes=sizes[:, :4],
            anchor_sizes=sizes[:, 4:],
            counts=self.counts,
        )


class ShapeRatioAssigner:
    """YOLOv5's assignment: each target is assigned to all fitting anchors in up to three cells.

    An anchor fits if both of its sides differ from the target's by less than the ratio limit. The
    cells are the one that contains the centre and, on each axis, the nearest neighbour, if it
    exists. It works on the CPU, where the targets come from: on a GPU the number of positive cells
    would have to be read, and the host would wait for the forward pass.

    Args:
        anchors: ``[L, A, 2]`` width and height in cells of each level; copied to the CPU.
        ratio_limit: limit of the ratio between a side of a target and of its anchor.
        neighbour_offset: maximum distance, in cells, of a centre to a cell border for the
            neighbour behind it to be positive too; 0.5 gives one neighbour on each axis.
    """

    def __init__(
        self, anchors: Tensor, ratio_limit: float = 4.0, neighbour_offset: float = 0.5
    ) -> None:
        self.anchors = anchors.detach().to("cpu", torch.float32, copy=True)
        self.ratio_limit = ratio_limit
        self.neighbour_offset = neighbour_offset
        self._steps = self.anchors.new_tensor(NEIGHBOUR_STEPS) * neighbour_offset  # [5, 2]

    def __call__(
        self, targets: Tensor, images: int, grid_sizes: Sequence[tuple[int, int]]
    ) -> Assignment:
        """Assign targets to cells and anchors of every level.

        Args:
            targets: ``[n, 6]`` on the CPU: image index, class, centre and size as fractions of the
                network input; n may be 0.
            images: number of images in the batch.
            grid_sizes: height and width of each level, in cells.
        """
        levels, start = [], 0
        for anchors, (height, width) in zip(self.anchors, grid_sizes, strict=True):
            shape = (images, len(anchors), height, width)
            levels.append(self._assign_level(targets, anchors, shape, start))
            start += math.prod(shape)
        fields = zip(Assignment._fields[:-1], *(level[:-1] for level in levels), strict=True)
        columns = {name: torch.cat(parts) for name, *parts in fields}
        found = Assignment(**columns, counts=tuple(len(level.cell) for level in levels))
        last = found.cell.new_zeros(start)
        last.scatter_reduce_(0, found.cell, torch.arange(len(found.cell)), "amax")
        return found._replace(last=last[found.cell])

    def _assign_level(
        self, targets: Tensor, anchors: Tensor, shape: tuple[int, int, int, int], start: int
    ) -> Assignment:
        """Assign to one level of this shape, B, A, h, w, whose first cell has position `start`."""
        _, anchors_per_cell, height, width = shape
        centres = targets[:, 2:4] * targets.new_tensor([width, height])  # [n, 2]
        sizes = targets[:, 4:6] * targets.new_tensor([width, height])  # [n, 2]

        fits = self._shape_fits(sizes, anchors)  # [A, n]
        reached = self._reached_cells(centres, height, width)  # [5, n]
        step, anchor, target = (reached[:, None] & fits).nonzero(as_tuple=True)

        centres = centres[target]
        cells = (centres - self._steps[step]).long()
        # A centre on the right or lower image border is outside the last cell, hence the clamp.
        col, row = cells[:, 0].clamp(0, width - 1), cells[:, 1].clamp(0, height - 1)
        image = targets[target, 0].long()
        cell = ((image * anchors_per_cell + anchor) * height + row) * width + col
        return Assignment(
            image=image,
            anchor=anchor,
            row=row,
            col=col,
            classes=targets[target, 1].long(),
            cell=cell + start,
            last=target,  # replaced when all levels are known
            boxes=torch.cat((centres - torch.stack((col, row), 1), sizes[target]), 1),
            anchor_sizes=anchors[anchor],
            counts=(),
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
    ignored: Tensor, assignment: Assignment, shapes: Sequence[tuple[int, ...]]
) -> Tensor:
    """Return the weight of each cell in the objectness loss, ``[cells]`` of all levels.

    Cells with their centre in an ignore region have weight 0, so that they are not trained as
    background. All other cells, and positive cells in ignore regions, have weight 1. The mean is
    still over all cells, so that the loss of other cells does not depend on the ignored area.

    Args:
        ignored: ``[m, 5]``: image index, centre and size as fractions of the network input.
        assignment: the positive cells, on the same device.
        shapes: B, A, h, w of each level.
    """
    weights = []
    for images, anchors, height, width in shapes:
        counts = ~ignored_cells(ignored, (images, height, width))  # [B, h, w]
        weights.append(counts[:, None].float().expand(-1, anchors, -1, -1).flatten())
    return torch.cat(weights).scatter_(0, assignment.cell, 1.0)


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
