import numpy as np
import pytest
import torch

from models.assigner import (
    Assignment,
    ShapeRatioAssigner,
    ignored_cells,
    objectness_weight,
)
from models.detector import Detector
from models.spec import load_spec
from tests.paths import GOLDENS


def assign(
    targets: list[list[float]], anchors: list[list[float]], height: int = 8, width: int = 8
) -> Assignment:
    assigner = ShapeRatioAssigner(torch.tensor([anchors]))
    return assigner(torch.tensor(targets).view(-1, 6), 4, [(height, width)])


def cells(assignment: Assignment) -> list[tuple[int, int]]:
    """Return row and column of each positive cell."""
    return list(zip(assignment.row.tolist(), assignment.col.tolist(), strict=True))


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        # The own cell is row 3, column 5; the nearest neighbour on each axis is positive too.
        (5.25, 3.25, [(3, 5), (3, 4), (2, 5)]),
        (5.75, 3.25, [(3, 5), (2, 5), (3, 6)]),
        (5.25, 3.75, [(3, 5), (3, 4), (4, 5)]),
        (5.75, 3.75, [(3, 5), (3, 6), (4, 5)]),
        (5.5, 3.5, [(3, 5)]),  # exact centre: no neighbour is near
        (0.25, 3.5, [(3, 0)]),  # no neighbour left of the first column
        (7.75, 3.5, [(3, 7)]),  # no neighbour right of the last column
        (5.5, 0.25, [(0, 5)]),
        (5.5, 7.75, [(7, 5)]),
        (5.0, 3.5, [(3, 5), (3, 4)]),  # on a border: the cell on the other side is nearest
        (8.0, 3.5, [(3, 7), (3, 7)]),  # on the right image border: clamped to the last cell
        (0.0, 0.0, [(0, 0)]),
    ],
)
def test_positive_cells(x: float, y: float, expected: list[tuple[int, int]]) -> None:
    found = assign([[0, 0, x / 8, y / 8, 1 / 8, 1 / 8]], [[1.0, 1.0]])
    assert cells(found) == expected


def test_boxes_are_relative_to_their_cell() -> None:
    found = assign([[0, 0, 5.25 / 8, 3.25 / 8, 2 / 8, 1 / 8]], [[1.0, 1.0]])
    assert found.boxes.tolist() == [
        [0.25, 0.25, 2, 1],  # own cell
        [1.25, 0.25, 2, 1],  # left of it
        [0.25, 1.25, 2, 1],  # above it
    ]


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1.0, 1.0, [0]),
        (3.9, 1.0, [0, 1]),
        (4.0, 1.0, [1]),  # the limit itself does not fit
        (3.0, 3.0, [0, 1]),
        (2.0, 7.9, []),  # a single side above the limit is enough
    ],
)
def test_anchors_of_similar_shape_fit(width: float, height: float, expected: list[int]) -> None:
    found = assign([[0, 0, 0.5625, 0.5625, width / 8, height / 8]], [[1.0, 1.0], [8.0, 1.5]])
    assert found.anchor.tolist() == expected
    sizes = [[1.0, 1.0], [8.0, 1.5]]
    assert found.anchor_sizes.tolist() == [sizes[anchor] for anchor in expected]


def test_each_target_keeps_its_image_and_class() -> None:
    targets = [[0, 7, 0.5625, 0.5625, 0.125, 0.125], [3, 2, 0.0625, 0.0625, 0.125, 0.125]]
    found = assign(targets, [[1.0, 1.0]])
    assert found.image.tolist() == [0, 3]
    assert found.classes.tolist() == [7, 2]
    assert cells(found) == [(4, 4), (0, 0)]


def test_rectangular_grids() -> None:
    found = assign([[0, 0, 0.3125, 0.25, 0.125, 0.5]], [[1.0, 1.0]], height=2, width=8)
    assert cells(found) == [(0, 2)]
    assert found.boxes.tolist() == [[0.5, 0.5, 1, 1]]


def test_levels_use_their_own_anchors_and_grids() -> None:
    assigner = ShapeRatioAssigner(torch.tensor([[[1.0, 1.0]], [[9.0, 9.0]]]), ratio_limit=2.0)
    targets = torch.tensor([[1, 0, 0.5625, 0.5625, 0.125, 0.125], [0, 0, 0.4, 0.4, 0.6, 0.4]])
    found = assigner(targets, 2, [(8, 8), (4, 4)])
    assert found.counts == (1, 0)
    assert cells(found) == [(4, 4)]
    targets[1, 4:] = 2.0
    found = assigner(targets, 2, [(8, 8), (4, 4)])
    assert found.counts == (1, 3)
    assert cells(found) == [(4, 4), (1, 1), (1, 2), (2, 1)]
    # 64 cells of each of the two images come before those of the second level, 16 each.
    assert found.cell.tolist() == [64 + 4 * 8 + 4, *(128 + cell for cell in (5, 6, 9))]


def test_last_of_the_positives_that_share_a_cell() -> None:
    box = [0.5625, 0.5625, 0.125, 0.125]
    found = assign([[0, 7, *box], [0, 5, 0.1, 0.1, 0.125, 0.125], [0, 3, *box]], [[1.0, 1.0]])
    of_cell = list(zip(found.cell.tolist(), found.classes[found.last].tolist(), strict=True))
    assert of_cell[0] == (4 * 8 + 4, 3)
    assert of_cell[1][1] == 5
    assert of_cell[2] == of_cell[0]


def test_box_of_zero_area_is_not_assigned() -> None:
    assert cells(assign([[0, 0, 0.5, 0.5, 0.0, 0.1]], [[1.0, 1.0]])) == []


def test_no_targets() -> None:
    found = assign([], [[1.0, 1.0]])
    assert [field.shape for field in found[:4]] == [(0,)] * 4
    assert found.boxes.shape == (0, 4)
    assert found.anchor_sizes.shape == (0, 2)


@pytest.mark.parametrize("case", ["default", "empty", "smooth_focal"])
def test_assignments_equal_upstreams(case: str) -> None:
    golden = np.load(GOLDENS / f"loss_{case}.npz")
    assigner = ShapeRatioAssigner(Detector(load_spec("yolov5n.yaml")).head.anchors)
    sizes = [golden[f"p{level}"].shape[2:4] for level in range(3)]
    found = assigner(torch.from_numpy(golden["targets"]), len(golden["p0"]), sizes)
    fields = (torch.stack(found[:4], 1), found.classes, found.anchor_sizes, found.boxes)
    levels = zip(*(field.split(found.counts) for field in fields), strict=True)
    for level, (indices, classes, anchor_sizes, boxes) in enumerate(levels):
        # The order is compared too: if targets share a cell, it decides which one counts.
        np.testing.assert_array_equal(indices, golden[f"assign{level}"])
        np.testing.assert_array_equal(classes, golden[f"tcls{level}"])
        np.testing.assert_array_equal(anchor_sizes, golden[f"anch{level}"])
        np.testing.assert_allclose(boxes, golden[f"tbox{level}"], rtol=1e-6)


def test_cells_with_centre_in_a_region_of_their_image_are_ignored() -> None:
    ignored = torch.tensor(
        [
            [0, 0.5, 0.25, 0.5, 0.5],  # x from 1 to 3 of 4 cells, y from 0 to 1 of 2
            [1, 0.25, 0.75, 0.25, 0.5],  # x from 0.5 to 1.5: centres on both borders
            [1, 0.25, 0.5, 0.01, 1.0],  # between two columns of centres
            [1, 0.75, 0.75, 0.5, 0.5],  # two regions
            [1, 0.875, 0.5, 0.25, 1.0],  # that overlap
        ]
    )
    assert ignored_cells(ignored, (3, 2, 4)).int().tolist() == [
        [[0, 1, 1, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 1], [1, 1, 1, 1]],
        [[0, 0, 0, 0], [0, 0, 0, 0]],
    ]


def test_objectness_weight_is_zero_in_regions_except_for_positives() -> None:
    positive = assign([[0, 0, 0.625, 0.25, 1 / 4, 1 / 2]], [[1.0, 1.0], [9.0, 9.0]], 2, 4)
    assert cells(positive) == [(0, 2)]
    assert positive.anchor.tolist() == [0]
    region = torch.tensor([[0, 0.5, 0.25, 0.5, 0.5]])
    weight = objectness_weight(region, positive, [(1, 2, 2, 4)]).view(2, 2, 4)
    assert weight[0].tolist() == [[1, 0, 1, 1], [1, 1, 1, 1]]
    assert weight[1].tolist() == [[1, 0, 0, 1], [1, 1, 1, 1]]
