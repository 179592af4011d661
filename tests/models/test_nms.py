import json

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import ops

from models import torchvision_operators
from models.nms import non_max_suppression
from tests.paths import GOLDENS
from utils.boxes import xywh_to_xyxy

CONF, IOU, LIMIT = 0.001, 0.6, 5_000
CASES = ["detect", "val", "agnostic", "classes", "maxdet"]


def prediction(*rows: list[float]) -> Tensor:
    """Return predictions of one image; rows are x, y, w, h, objectness, scores of two classes."""
    return torch.tensor([list(rows)])


def test_detection_has_corners_score_and_class() -> None:
    found = non_max_suppression(prediction([50, 40, 20, 10, 0.5, 0.25, 1.0]))
    assert found[0].tolist() == [[40, 35, 60, 45, 0.5, 1]]


def test_box_that_overlaps_a_better_one_is_dropped() -> None:
    rows = prediction([50, 50, 20, 20, 0.75, 1, 0], [51, 50, 20, 20, 1, 1, 0])
    assert non_max_suppression(rows)[0][:, 4].tolist() == [1.0]
    assert non_max_suppression(rows, iou_thres=0.95)[0][:, 4].tolist() == [1.0, 0.75]  # best first


def test_classes_suppress_each_other_only_if_agnostic() -> None:
    rows = prediction([50, 50, 20, 20, 1, 1, 0], [50, 50, 20, 20, 0.75, 0, 1])
    assert non_max_suppression(rows)[0][:, 5].tolist() == [0, 1]
    assert non_max_suppression(rows, agnostic=True)[0][:, 5].tolist() == [0]


def test_classes_are_separated_outside_the_image() -> None:
    # With an offset of the largest coordinate plus one, the second box would overlap the first.
    rows = prediction([10, 10, 20, 20, 1, 1, 0], [-15, -15, 20, 20, 0.75, 0, 1])
    assert len(non_max_suppression(rows)[0]) == 2


def test_objectness_and_score_must_exceed_the_threshold() -> None:
    rows = prediction([50, 50, 9, 9, 0.5, 0.5, 0], [20, 20, 9, 9, 0.25, 1, 0])
    assert len(non_max_suppression(rows, conf_thres=0.25)[0]) == 0
    assert len(non_max_suppression(rows, conf_thres=0.2)[0]) == 2


def test_multi_label_yields_every_class_above_the_threshold() -> None:
    rows = prediction([50, 50, 20, 20, 1, 0.5, 0.75])
    assert non_max_suppression(rows)[0][:, 4:].tolist() == [[0.75, 1]]
    many = non_max_suppression(rows, multi_label=True)[0]
    assert many[:, 4:].tolist() == [[0.75, 1], [0.5, 0]]


def test_filter_by_class() -> None:
    rows = prediction([50, 50, 20, 20, 1, 1, 0], [20, 20, 9, 9, 1, 0, 1])
    assert non_max_suppression(rows, classes=[1])[0][:, 5].tolist() == [1]
    assert len(non_max_suppression(rows, classes=[])[0]) == 0


def test_max_det_keeps_the_best() -> None:
    rows = prediction(*([[40.0 * i, 50, 20, 20, (i + 1) / 8, 1, 0] for i in range(8)]))
    found = non_max_suppression(rows, conf_thres=0.0, max_det=2)[0]
    assert found[:, 4].tolist() == [1.0, 0.875]


def test_number_of_candidates_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.nms.MAX_CANDIDATES", 2)
    rows = prediction(*([[40.0 * i, 50, 20, 20, (i + 1) / 8, 1, 0] for i in range(8)]))
    assert non_max_suppression(rows)[0][:, 4].tolist() == [1.0, 0.875]


def test_image_without_detections_gives_an_empty_tensor() -> None:
    empty = prediction([50, 50, 20, 20, 0.1, 1, 0])
    found = non_max_suppression(torch.cat((empty, prediction([50, 50, 20, 20, 1, 1, 0]))))
    assert [tuple(image.shape) for image in found] == [(0, 6), (1, 6)]
    assert non_max_suppression(torch.zeros(2, 0, 7))[1].shape == (0, 6)


def reference(rows: Tensor, *, multi_label: bool, agnostic: bool, max_det: int) -> Tensor:
    """Return the detections of one image by torchvision's nms, one call for each class."""
    scores = rows[:, 5:] * rows[:, 4, None]
    if multi_label:
        score, label = scores.flatten(), torch.arange(scores.shape[1]).repeat(len(rows))
        corners = xywh_to_xyxy(rows[:, :4]).repeat_interleave(scores.shape[1], 0)
    else:
        score, label = scores.max(1)
        corners = xywh_to_xyxy(rows[:, :4])
    order = score.argsort(descending=True, stable=True)[:LIMIT]
    order = order[score[order] > CONF]
    corners, score, label = corners[order], score[order], label[order]
    groups = torch.zeros_like(label) if agnostic else label
    kept = [
        own[ops.nms(corners[own], score[own], IOU)]
        for own in ((groups == group).nonzero()[:, 0] for group in groups.unique())
    ]
    best = torch.cat([*kept, label[:0]]).sort().values[:max_det]
    return torch.cat((corners, score[:, None], label[:, None]), 1)[best]


def crowd(count: int, classes: int, *, side: float = 600, seed: int = 0) -> Tensor:
    """Return random boxes of an image of 640 px; centres lie in a square of this side."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.rand(count, 5 + classes, generator=random)
    rows[:, :2] = rows[:, :2] * side + 20
    rows[:, 2:4] = rows[:, 2:4] * 90 + 10
    return rows


def with_equal_scores(rows: Tensor) -> Tensor:
    rows[:, 4:] = (rows[:, 4:] * 4).round() / 4
    return rows


def with_copies_of_the_best(rows: Tensor) -> Tensor:
    """Add 5,000 boxes that the best one suppresses, so that the first block yields one box."""
    copies = torch.tensor([320, 320, 200, 200, 1, 0.99]).repeat(5_000, 1)
    copies[:, :2] += crowd(5_000, 1, side=1)[:, :2]
    copies[0, 5] = 1
    return torch.cat((rows * torch.tensor([1, 1, 1, 1, 0.9, 1]), copies))


CROWDS = {
    "one class": lambda: crowd(4_000, 1),
    "equal scores": lambda: with_equal_scores(crowd(1_500, 3)),
    "equal scores beyond the limit": lambda: with_equal_scores(crowd(6_000, 2)),
    "copies of the best": lambda: with_copies_of_the_best(crowd(3_000, 1)),
    "80 classes in one place": lambda: crowd(1_000, 80, side=20),
    "few survivors": lambda: crowd(4_000, 1, side=1),
    "few boxes": lambda: crowd(50, 3),
}


@pytest.mark.parametrize("name", CROWDS)
@pytest.mark.parametrize("agnostic", [False, True], ids=["by class", "agnostic"])
@pytest.mark.parametrize("multi_label", [False, True], ids=["best label", "multi-label"])
def test_result_equals_suppression_of_all_candidates(
    monkeypatch: pytest.MonkeyPatch, name: str, agnostic: bool, multi_label: bool
) -> None:
    monkeypatch.setattr("models.nms.MAX_CANDIDATES", LIMIT)
    rows = CROWDS[name]()
    for max_det in (300, 1_100):
        found = non_max_suppression(
            rows[None],
            conf_thres=CONF,
            iou_thres=IOU,
            agnostic=agnostic,
            multi_label=multi_label,
            max_det=max_det,
        )[0]
        expected = reference(rows, multi_label=multi_label, agnostic=agnostic, max_det=max_det)
        assert torch.equal(found, expected)


def test_suppression_stops_when_enough_boxes_have_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    suppressed: list[int] = []

    def spy(boxes: Tensor, scores: Tensor, iou_thres: float) -> Tensor:
        suppressed.append(len(boxes))
        return torchvision_operators.nms(boxes, scores, iou_thres)

    monkeypatch.setattr("models.nms.nms", spy)
    found = non_max_suppression(crowd(25_200, 1)[None], conf_thres=CONF, max_det=100)[0]
    assert len(found) == 100
    assert suppressed == [1_000]


@pytest.mark.parametrize("case", CASES)
def test_detections_equal_upstreams(case: str) -> None:
    golden = np.load(GOLDENS / "nms.npz")
    settings = json.loads((GOLDENS / "nms_cases.json").read_text(encoding="utf-8"))[case]
    found = non_max_suppression(torch.from_numpy(golden["pred"]), **settings)
    for image, detections in enumerate(found):
        np.testing.assert_array_equal(detections, golden[f"{case}_{image}"])
