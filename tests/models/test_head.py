import math

import pytest
import torch
from torch import Tensor

from models.head import DetectionHead


def small_head(classes: int = 2) -> DetectionHead:
    """A head with two levels: anchors 8x16 and 24x8 at stride 8, 32x64 and 64x32 at stride 16."""
    return DetectionHead(classes, [[8, 16, 24, 8], [32, 64, 64, 32]], [4, 6], [8, 16])


def decode_all(raw: list[Tensor]) -> Tensor:
    """Decode every box ``[B, N, 5 + classes]``."""
    return torch.stack(small_head().decode_confident(raw, threshold=-1.0))


def test_anchors_are_kept_in_cells() -> None:
    assert small_head().anchors.tolist() == [[[1, 2], [3, 1]], [[2, 4], [4, 2]]]


def test_state_names_equal_upstreams() -> None:
    names = ["anchors", "m.0.weight", "m.0.bias", "m.1.weight", "m.1.bias"]
    assert list(small_head().state_dict()) == names


def test_raw_maps_have_the_fields_last() -> None:
    head = small_head()
    features = torch.zeros(3, 4, 2, 5), torch.zeros(3, 6, 1, 3)
    fine, coarse = head(*features)
    assert fine.shape == (3, 2, 2, 5, 7)
    assert coarse.shape == (3, 2, 1, 3, 7)
    assert torch.equal(fine[0, 1, 0, 0], head.state_dict()["m.0.bias"][7:])  # the second anchor


def test_raw_maps_do_not_depend_on_the_memory_format() -> None:
    head = small_head()
    features = torch.rand(1, 4, 2, 5, generator=torch.Generator().manual_seed(0))
    other = features.to(memory_format=torch.channels_last)
    coarse = torch.zeros(1, 6, 1, 3)
    torch.testing.assert_close(head(other, coarse)[0], head(features, coarse)[0])


def test_zero_logits_decode_to_cell_centres_and_anchors() -> None:
    raw = [torch.zeros(1, 2, 1, 2, 7), torch.zeros(1, 2, 1, 1, 7)]
    decoded = decode_all(raw)
    assert decoded[0, :, :4].tolist() == [
        [4, 4, 8, 16],
        [12, 4, 8, 16],  # next column
        [4, 4, 24, 8],  # next anchor
        [12, 4, 24, 8],
        [8, 8, 32, 64],  # next level
        [8, 8, 64, 32],
    ]
    assert (decoded[..., 4:] == 0.5).all()


def test_rows_come_before_columns() -> None:
    decoded = decode_all([torch.zeros(1, 2, 2, 3, 7), torch.zeros(1, 2, 1, 1, 7)])
    assert decoded[0, :6, :2].tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]


@pytest.mark.parametrize(
    ("logit", "centre", "size"),
    [(-100.0, -0.5, 0.0), (100.0, 1.5, 4.0), (math.log(3), 1.0, 2.25)],  # sigmoid(log 3) = 3/4
)
def test_range_of_decoded_centres_and_sizes(logit: float, centre: float, size: float) -> None:
    raw = [torch.full((1, 2, 1, 1, 7), logit), torch.zeros(1, 2, 1, 1, 7)]
    expected = torch.tensor([centre * 8, centre * 8, size * 8, size * 16])
    torch.testing.assert_close(decode_all(raw)[0, 0, :4], expected)


def test_half_precision_maps_decode_in_float32() -> None:
    raw = [torch.zeros(1, 2, 1, 130, 7).half(), torch.zeros(1, 2, 1, 1, 7).half()]
    decoded = decode_all(raw)
    assert decoded.dtype == torch.float32
    assert decoded[0, 129, 0].item() == 129.5 * 8


def test_initial_biases_expect_eight_objects_per_image_and_equal_classes() -> None:
    head = DetectionHead(4, [[8, 8]], [1], [8])
    bias = head.state_dict()["m.0.bias"]
    # The random initialisation of torch, -1/sqrt(inputs) to 1/sqrt(inputs), is added to them.
    objectness, classes = math.log(8 / 80**2), math.log(0.6 / (4 - 0.99999))
    assert (bias[:4].abs() <= 1).all()
    assert abs(bias[4].item() - objectness) <= 1
    assert ((bias[5:] - classes).abs() <= 1).all()


def test_initial_biases_of_a_single_class_are_finite() -> None:
    assert all(value.isfinite().all() for value in small_head(classes=1).state_dict().values())


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.4, 1.0])
def test_only_boxes_above_the_threshold_are_decoded(threshold: float) -> None:
    generator = torch.Generator().manual_seed(0)
    raw = [torch.randn(3, 2, rows, 2 * rows, 7, generator=generator) for rows in (4, 2)]
    decoded = decode_all(raw)
    confident = small_head().decode_confident(raw, threshold)
    assert len(confident) == 3
    for boxes, found in zip(decoded, confident, strict=True):
        scores = boxes[:, 5:].amax(1) * boxes[:, 4]
        torch.testing.assert_close(found, boxes[scores > threshold])
