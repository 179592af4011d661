import json

import numpy as np
import pytest
import torch
from torch import Tensor

from models.nms import non_max_suppression
from tests.paths import GOLDENS, requires_shared
from utils.boxes import xywh_to_xyxy

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


@pytest.mark.parametrize("count", [1_000, 1_001], ids=["one call", "class by class"])
def test_result_equals_torchvisions_batched_nms(count: int) -> None:
    from torchvision import ops

    rows = torch.rand(count, 7, generator=torch.Generator().manual_seed(count))
    rows[:, :4] *= 100
    rows[:, 4] = 1
    found = non_max_suppression(rows[None], conf_thres=0.0, multi_label=False, max_det=count)[0]
    scores, labels = rows[:, 5:].max(1)
    corners = xywh_to_xyxy(rows[:, :4])
    kept = ops.batched_nms(corners - corners.min(), scores, labels, 0.45)
    assert (
        found.tolist() == torch.cat((corners, scores[:, None], labels[:, None]), 1)[kept].tolist()
    )


@requires_shared
@pytest.mark.parametrize("case", CASES)
def test_detections_equal_upstreams(case: str) -> None:
    golden = np.load(GOLDENS / "nms.npz")
    settings = json.loads((GOLDENS / "nms_cases.json").read_text(encoding="utf-8"))[case]
    found = non_max_suppression(torch.from_numpy(golden["pred"]), **settings)
    for image, detections in enumerate(found):
        np.testing.assert_array_equal(detections, golden[f"{case}_{image}"])
