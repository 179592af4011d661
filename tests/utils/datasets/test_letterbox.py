import json
from typing import Any

import numpy as np
import pytest
import torch

from tests.paths import GOLDENS
from utils.datasets.letterbox import border_offset, boxes_to_original, letterbox


def test_shapes_ratios_and_padding_match_the_published_ones() -> None:
    cases = json.loads((GOLDENS / "letterbox.json").read_text())
    assert len(cases) == 28
    for case in cases:
        shape = case["new_shape"]
        boxed = letterbox(
            np.zeros((case["h"], case["w"], 3), np.uint8),
            tuple(shape) if isinstance(shape, list) else shape,
            auto=case["auto"],
            scale_up=case.get("scaleup", True),
        )
        assert list(boxed.image.shape[:2]) == case["out_shape"], case
        assert list(boxed.ratio) == case["ratio"], case
        assert list(boxed.pad) == case["pad"], case


def test_border_offset_is_the_position_of_the_image() -> None:
    image = np.full((3, 4, 3), 200, np.uint8)
    boxed = letterbox(image, (6, 4))  # 3 spare rows: 1 above, 2 below
    assert boxed.pad == (0.0, 1.5)
    assert border_offset(boxed.pad) == (0, 1)
    assert boxed.image[:, 0, 0].tolist() == [114, 200, 200, 200, 114, 114]


def test_image_of_the_target_shape_is_not_copied() -> None:
    image = np.zeros((64, 32, 3), np.uint8)
    assert letterbox(image, (64, 32)).image is image


def test_extreme_aspect_ratios_keep_one_pixel() -> None:
    assert letterbox(np.zeros((1, 5000, 3), np.uint8), 64).image.shape == (64, 64, 3)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_boxes_to_original_maps_and_clips(kind: Any) -> None:
    # 40 px high, 100 wide, halved vertically to 20 and horizontally to 50; padding 7 left, 6 top
    boxes = kind([[7.0, 6.0, 57.0, 26.0], [17.0, 8.5, 27.0, 16.0], [0.0, 0.0, 99.0, 99.0]])
    back = boxes_to_original(boxes, ratio=(0.5, 0.5), pad=(7.0, 6.0), original=(40, 100))
    assert type(back) is type(boxes)
    assert back.tolist() == [[0, 0, 100, 40], [20, 5, 40, 20], [0, 0, 100, 40]]
    assert boxes[0].tolist() == [7, 6, 57, 26]  # the input is unchanged


def test_boxes_to_original_with_unequal_ratios() -> None:
    back = boxes_to_original(
        np.array([[10.0, 10.0, 20.0, 20.0]]), ratio=(0.5, 2.0), pad=(0.0, 0.0), original=(99, 99)
    )
    assert back.tolist() == [[5, 20, 10, 40]]
