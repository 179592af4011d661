"""Which cells and anchors learn which targets, and which cells learn nothing."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NO_STEP = (0.0, 0.0)
NEIGHBOUR_STEPS = (NO_STEP, (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))
"""How far back (x, y) the own cell, then the left, upper, right and lower neighbours lie."""


class Assignment(NamedTuple):
    """The positives of one level; a cell may occur more than once, with different targets."""

    image: Tensor
    """Image in the batch, int64 ``[n]``."""
    anchor: Tensor
    """Anchor of the level, int64 ``[n]``."""
    row: Tensor
    """Row of the cell, int64 ``[n]``."""
    col: Tensor
    """Column of the cell, int64 ``[n]``."""
    boxes: Tensor
    """Target ``[n, 4]`` in cells: centre relative to the cell's upper left corner, then size."""
    classes: Tensor
    """Class of the target, int64 ``[n]``."""
    anchor_sizes: Tensor
    """Width and height of the anchor ``[n, 2]`` in cells."""


class ShapeRatioAssigner:
    """YOLOv5's rule: a target goes to every anchor of similar shape, in up to three cells.

    An anchor fits if neither side differs from the target's by the ratio limit or more. The cells
    are the one that holds the centre and the nearest neighbour on each axis, where there is one.

    Args:
        anchors: ``[L, A, 2]`` width and height in cells of each level; targets must be on the
            same device.
        ratio_limit: largest ratio between a side of a target and of its anchor.
        neighbour_offset: how near a cell border, in cells, a centre must be for the neighbour
            beyond it to be positive too; 0.5 gives one on each axis.
    """

    def __init__(
        self, anchors: Tensor, ratio_limit: float = 4.0, neighbour_offset: float = 0.5
    ) -> None:
        self.anchors = anchors.detach().clone().float()
        self.ratio_limit = ratio_limit
        self.neighbour_offset = neighbour_offset
        self._steps = self.anchors.new_tensor(NEIGHBOUR_STEPS) * neighbour_offset  # [5, 2]

    def __call__(self, targets: Tensor, grid_sizes: Sequence[tuple[int, int]]) -> list[Assignment]:
        """Assign targets on every level.

        Args:
            targets: ``[n, 6]``: image in the batch, class, centre and size as fractions of the
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
        # Scaling column by column by plain numbers keeps a GPU from waiting for a copied tensor.
        centres = torch.stack((targets[:, 2] * width, targets[:, 3] * height), 1)  # [n, 2]
        sizes = torch.stack((targets[:, 4] * width, targets[:, 5] * height), 1)  # [n, 2]

        fits = self._shape_fits(sizes, anchors)  # [A, n]
        reached = self._reached_cells(centres, height, width)  # [5, n]
        step, anchor, target = (reached[:, None] & fits).nonzero(as_tuple=True)

        centres = centres[target]
        cells = (centres - self._steps[step]).long()
        # A centre on the far border of the image lies in no cell; the last one takes it.
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
        """Sizes ``[n, 2]`` against anchors ``[A, 2]``, both in cells, to booleans ``[A, n]``."""
        ratio = sizes / anchors[:, None]  # [A, n, 2]
        return torch.maximum(ratio, 1 / ratio).amax(2) < self.ratio_limit

    def _reached_cells(self, centres: Tensor, height: int, width: int) -> Tensor:
        """Centres ``[n, 2]`` in cells to booleans ``[5, n]`` in the order of the steps.

        A neighbour counts if the centre is near the common border and the neighbour is inside.
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
    """What each cell counts in the objectness loss, ``[B, A, h, w]``; None if all count alike.

    Cells whose centres lie in ignore regions count 0: they are not taught to be background. For
    positives there is a label and they count 1, as all other cells do. The mean is still over all
    cells, so that what the others learn does not depend on how much is ignored beside them.

    Args:
        ignored: ``[m, 5]``: image in the batch, centre and size as fractions of the network input.
        assignment: the positives.
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
    """The cells whose centres lie in an ignore region, on its border included.

    Args:
        ignored: ``[m, 5]``: image in the batch, centre and size as fractions of the network input.
        shape: B, h, w: images of the batch, height and width of the level in cells.

    Returns:
        booleans ``[B, h, w]``.
    """
    images, height, width = shape
    columns = (torch.arange(width, device=ignored.device) + 0.5) / width
    rows = (torch.arange(height, device=ignored.device) + 0.5) / height
    across = (columns - ignored[:, 1:2]).abs() <= ignored[:, 3:4] / 2  # [m, w]
    down = (rows - ignored[:, 2:3]).abs() <= ignored[:, 4:5] / 2  # [m, h]
    own = ignored[:, 0] == torch.arange(images, device=ignored.device)[:, None]  # [B, m]
    # How many regions cover each cell: as a product, for a map of every region would be large.
    counts = (own[:, :, None] & down).float().mT @ across.float()  # [B, h, w]
    return counts > 0
