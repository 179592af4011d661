import torch

from utils.boxes import box_iou, complete_iou, xywh_to_xyxy, xyxy_to_xywh


def test_centre_and_size_to_corners() -> None:
    boxes = torch.tensor([[10.0, 20.0, 4.0, 6.0]])
    assert xywh_to_xyxy(boxes).tolist() == [[8.0, 17.0, 12.0, 23.0]]


def test_corners_to_centre_and_size() -> None:
    boxes = torch.tensor([[8.0, 17.0, 12.0, 23.0]])
    assert xyxy_to_xywh(boxes).tolist() == [[10.0, 20.0, 4.0, 6.0]]


def test_conversions_keep_leading_dimensions() -> None:
    boxes = torch.arange(24.0).view(2, 3, 4)
    assert torch.equal(xyxy_to_xywh(xywh_to_xyxy(boxes)), boxes)


def test_box_iou_of_all_pairs() -> None:
    #   0 1 2 3
    # 0 A A        A and B share 1 of 4 + 4 - 1 cells; C does not overlap A.
    # 1 A * B
    # 2   B B C
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    b = torch.tensor([[1.0, 1.0, 3.0, 3.0], [3.0, 2.0, 4.0, 3.0], [0.0, 0.0, 2.0, 2.0]])
    torch.testing.assert_close(box_iou(a, b), torch.tensor([[1 / 7, 0.0, 1.0]]), rtol=0, atol=0)
    assert box_iou(a[:0], b).shape == (0, 3)


def test_box_iou_equals_torchvisions() -> None:
    from torchvision import ops

    corners = torch.rand(2, 100, 4, generator=torch.Generator().manual_seed(0)) * 640
    a, b = torch.cat((corners[..., :2], corners[..., :2] + corners[..., 2:]), -1)
    b[:10] = a[:10]
    b[10:20, 2:] = b[10:20, :2]  # zero area
    assert torch.equal(box_iou(a, b), ops.box_iou(a, b))


def test_complete_iou_of_equal_boxes_is_one() -> None:
    boxes = torch.tensor([[5.0, 5.0, 2.0, 3.0], [0.5, 0.5, 40.0, 1.0]])
    torch.testing.assert_close(complete_iou(boxes, boxes), torch.ones(2))


def test_complete_iou_subtracts_the_centre_distance() -> None:
    # Two 2x2 squares, one unit apart: IoU 2/6; the enclosing box is 3x2, its squared diagonal 13.
    a, b = torch.tensor([[1.0, 1.0, 2.0, 2.0]]), torch.tensor([[2.0, 1.0, 2.0, 2.0]])
    torch.testing.assert_close(complete_iou(a, b), torch.tensor([2 / 6 - 1 / 13]))


def test_complete_iou_subtracts_the_weighted_aspect() -> None:
    # A 2x2 square and a 4x1 bar, same centre: IoU 2/6, angles atan 1 and atan 4.
    a, b = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, 4.0, 1.0]])
    aspect = 4 / torch.pi**2 * (torch.tensor(4.0).atan() - torch.pi / 4) ** 2
    alpha = aspect / (1 - 2 / 6 + aspect)
    torch.testing.assert_close(complete_iou(a, b), (2 / 6 - alpha * aspect).view(1))


def test_complete_iou_is_negative_for_distant_boxes() -> None:
    a, b = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[9.0, 0.0, 1.0, 1.0]])
    torch.testing.assert_close(complete_iou(a, b), torch.tensor([-81 / 101]))


def test_complete_iou_of_a_box_of_zero_area_has_finite_gradients() -> None:
    a = torch.tensor([[0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    complete_iou(a, torch.tensor([[0.0, 0.0, 2.0, 1.0]])).sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()
