import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.assigner import Assignment, ShapeRatioAssigner
from models.detector import Detector
from models.loss import (
    DetectionLoss,
    LossGains,
    binary_loss,
    build_loss,
    decoded_boxes,
    objectness_target,
)
from models.spec import load_spec
from tests.paths import GOLDENS
from utils.hyp import Hyp

ONE = torch.tensor(1.0)
GOLDEN_SETTINGS = {
    "default": (Hyp(), 0.0),
    "empty": (Hyp(), 0.0),
    "smooth_focal": (Hyp(fl_gamma=1.5, cls_pw=1.5, obj_pw=0.8), 0.1),
}


def one_level_loss(classes: int, gains: LossGains) -> DetectionLoss:
    """Return a loss with one level and one anchor of one cell."""
    return DetectionLoss(ShapeRatioAssigner(torch.ones(1, 1, 2)), gains, classes, (1.0,))


def centred_target() -> Tensor:
    """Return a target of class 1, one cell in size, in the middle of the only cell."""
    return torch.tensor([[0, 1, 0.5, 0.5, 1.0, 1.0]])


def test_gains_of_the_nominal_model_are_not_scaled() -> None:
    model = Detector(load_spec("yolov5n.yaml"))
    gains = build_loss(model, Hyp(), image_size=640, label_smoothing=0.1).gains
    assert gains == LossGains(box=0.05, obj=1.0, cls=0.5, label_smoothing=0.1)


def test_gains_scale_with_levels_classes_and_image_size() -> None:
    model = Detector(load_spec("yolov5n6.yaml").with_classes(40))
    gains = build_loss(model, Hyp(), image_size=1280, label_smoothing=0.0).gains
    assert gains.box == pytest.approx(0.05 * 3 / 4)
    assert gains.cls == pytest.approx(0.5 / 2 * 3 / 4)
    assert gains.obj == pytest.approx(4 * 3 / 4)


@pytest.mark.parametrize(
    ("name", "balance"), [("yolov5n", (4.0, 1.0, 0.4)), ("yolov5n6", (4.0, 1.0, 0.25, 0.06))]
)
def test_levels_are_balanced(name: str, balance: tuple[float, ...]) -> None:
    model = Detector(load_spec(f"{name}.yaml"))
    loss = build_loss(model, Hyp(), image_size=640, label_smoothing=0.0)
    assert loss.level_balance == balance


def test_zero_logits_predict_the_cell_centre_and_the_anchor() -> None:
    boxes = decoded_boxes(torch.zeros(1, 7), torch.tensor([[2.0, 3.0]]))
    assert boxes.tolist() == [[0.5, 0.5, 2, 3]]


def test_perfect_box_has_zero_loss() -> None:
    raw = [torch.zeros(1, 1, 1, 1, 7, requires_grad=True)]
    raw[0].data[..., 4] = 100.0
    loss = one_level_loss(2, LossGains(box=1.0, obj=1.0, cls=0.0))(raw, centred_target())
    assert loss.box.item() == pytest.approx(0, abs=1e-6)
    assert loss.obj.item() == pytest.approx(0, abs=1e-4)


def test_losses_include_gains_and_the_total_the_batch_size() -> None:
    raw = [torch.zeros(2, 1, 1, 1, 7)]
    loss = one_level_loss(2, LossGains(box=3.0, obj=5.0, cls=7.0))(raw, centred_target())
    # All logits are zero, so each cross-entropy is log 2 for any target.
    assert loss.obj.item() == pytest.approx(5 * math.log(2))
    assert loss.cls.item() == pytest.approx(7 * math.log(2))
    assert loss.total.item() == pytest.approx(2 * 12 * math.log(2), rel=1e-5)


def test_single_class_has_no_class_loss() -> None:
    target = torch.tensor([[0, 0, 0.5, 0.5, 1.0, 1.0]])
    loss = one_level_loss(1, LossGains(1.0, 1.0, 1.0))([torch.zeros(1, 1, 1, 1, 6)], target)
    assert loss.cls.item() == 0


@pytest.mark.parametrize(("smoothing", "present", "absent"), [(0.0, 1.0, 0.0), (0.1, 0.95, 0.05)])
def test_label_smoothing(smoothing: float, present: float, absent: float) -> None:
    raw = torch.zeros(1, 1, 1, 1, 7)
    raw[..., 5], raw[..., 6] = -1.0, 2.0
    gains = LossGains(0.0, 0.0, 1.0, label_smoothing=smoothing)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor([-1.0, 2.0]), torch.tensor([absent, present])
    )
    found = one_level_loss(2, gains)([raw], centred_target()).cls
    torch.testing.assert_close(found, expected)


def test_objectness_target_has_no_gradient() -> None:
    raw = torch.full((1, 1, 1, 1, 7), 0.3, requires_grad=True)
    one_level_loss(2, LossGains(0.0, 1.0, 0.0))([raw], centred_target()).total.backward()
    assert raw.grad is not None
    assert raw.grad.flatten()[[0, 1, 2, 3, 5, 6]].abs().max() == 0
    assert raw.grad.flatten()[4] != 0


def test_last_target_of_a_cell_sets_its_objectness() -> None:
    empty = torch.zeros(4, dtype=torch.int64)
    assigned = Assignment(
        *(empty,) * 5,
        cell=torch.tensor([1, 6, 1, 0]),
        last=torch.tensor([2, 1, 2, 3]),
        boxes=torch.zeros(4, 4),
        anchor_sizes=torch.zeros(4, 2),
        counts=(4,),
    )
    found = objectness_target(torch.tensor([0.9, 0.2, 0.5, 0.4]), assigned, 8)
    assert torch.equal(found, torch.tensor([0.4, 0.5, 0, 0, 0, 0, 0.2, 0]))


def test_binary_loss_weights_positives() -> None:
    logits, target = torch.zeros(2), torch.tensor([1.0, 0.0])
    found = binary_loss(logits, target, torch.tensor(3.0), gamma=0.0).mean()
    assert found.item() == pytest.approx((3 + 1) / 2 * math.log(2))


def test_focal_loss_reduces_well_classified_elements() -> None:
    logits, target = torch.tensor([math.log(3)]), torch.tensor([1.0])  # score 3/4
    found = binary_loss(logits, target, ONE, gamma=2.0)
    assert found.item() == pytest.approx(0.25 * (1 / 4) ** 2 * math.log(4 / 3))
    negative = binary_loss(logits, 1 - target, ONE, gamma=2.0)
    assert negative.item() == pytest.approx(0.75 * (3 / 4) ** 2 * math.log(4))


REGIONS = torch.tensor([[0, 0.25, 0.5, 0.5, 1.0], [1, 0.5, 0.5, 0.5, 0.5], [2, 0.5, 0.8, 1.0, 0.4]])


def of_images(rows: Tensor, images: list[int], count: int) -> Tensor:
    """Select the rows of some images and renumber them; return no rows if `count` is 0."""
    own = rows[torch.isin(rows[:, 0], torch.tensor(images))] if count else rows[:0]
    own = own.clone()
    own[:, 0] = torch.searchsorted(torch.tensor(images), own[:, 0].long())
    return own


@pytest.mark.parametrize("ignored", [None, REGIONS])
def test_losses_of_partial_batches_sum_to_that_of_the_batch(ignored: Tensor | None) -> None:
    model = Detector(load_spec(Path("yolov5n.yaml")).with_classes(3))
    loss = build_loss(model, Hyp(), image_size=64, label_smoothing=0.1)
    generator = torch.Generator().manual_seed(0)
    raw = [torch.randn(3, 3, side, side, 8, generator=generator) for side in (8, 4, 2)]
    boxes = torch.rand(7, 4, generator=generator) * 0.4 + 0.2
    classes = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    image = torch.tensor([0, 0, 0, 0, 1, 2, 2])
    targets = torch.cat((image[:, None], classes[:, None], boxes), 1)
    whole = loss(raw, targets, ignored=ignored)

    parts = []  # images 0 and 2 in one process, image 1 in another, and padding only in a third
    for images, count in (([0, 2], 2), ([1], 1), ([0], 0)):
        regions = None if ignored is None else of_images(ignored, images, count)
        own = of_images(targets, images, count)
        parts.append(([level[images] for level in raw], own, count, regions))
    counts: list[Tensor] = []

    def record(own: Tensor) -> Tensor:
        counts.append(own)
        return own

    for part in parts:
        loss.for_partial_batches(record)(*part)
    shared = loss.for_partial_batches(lambda _: torch.stack(counts).sum(0))
    losses = [shared(*part) for part in parts]
    for name in ("total", "box", "obj", "cls"):
        summed = torch.stack([getattr(part, name) for part in losses]).sum()
        torch.testing.assert_close(summed, getattr(whole, name), rtol=1e-5, atol=0)


@pytest.mark.parametrize("gamma", [0.0, 1.5])
def test_objectness_gradient_is_zero_only_in_ignore_regions(gamma: float) -> None:
    """The image has two bright squares: one with a label, one in an ignore region."""
    image = torch.full((1, 3, 128, 128), 0.4)
    image[..., 16:48, 16:48] = image[..., 64:112, 64:112] = 1.0
    target = torch.tensor([[0, 0, 0.25, 0.25, 0.25, 0.25]])
    region = torch.tensor([[0, 0.6875, 0.6875, 0.375, 0.375]])  # 64 … 112 px

    torch.manual_seed(0)
    model = Detector(replace(load_spec(Path("yolov5n.yaml")), width_multiple=0.01))
    loss = build_loss(model, Hyp(fl_gamma=gamma), image_size=128, label_smoothing=0.0)

    def gradients(ignored: Tensor | None) -> list[Tensor]:
        raw = model.train()(image)
        return list(torch.autograd.grad(loss(raw, target, ignored=ignored).total, raw))

    # The fourth centre of the coarsest level, at 112 px, is on the border of the region.
    inside = {8: slice(8, 14), 16: slice(4, 7), 32: slice(2, 4)}  # rows and columns by stride
    for stride, plain, masked in zip(inside, gradients(None), gradients(region), strict=True):
        square = (..., inside[stride], inside[stride], 4)
        assert plain[square].abs().min() > 0
        assert masked[square].abs().max() == 0
        plain[square] = 0
        assert torch.equal(plain, masked)
        assert plain[..., 4].count_nonzero() > 0


def test_positive_in_an_ignore_region_counts() -> None:
    raw = torch.full((1, 1, 1, 1, 7), 0.3, requires_grad=True)
    everywhere = torch.tensor([[0, 0.5, 0.5, 1.0, 1.0]])
    loss = one_level_loss(2, LossGains(1.0, 1.0, 1.0))
    with_region = loss([raw], centred_target(), ignored=everywhere)
    assert with_region == loss([raw], centred_target())
    assert loss([raw], centred_target()[:0], ignored=everywhere).total == 0


def test_empty_ignore_regions_change_nothing() -> None:
    raw = [torch.randn(2, 1, 4, 4, 7, generator=torch.Generator().manual_seed(0))]
    loss = one_level_loss(2, LossGains(1.0, 1.0, 1.0))
    assert loss(raw, centred_target(), ignored=torch.empty(0, 5)) == loss(raw, centred_target())


def test_half_precision_maps_give_a_float32_loss() -> None:
    raw = torch.zeros(1, 1, 1, 1, 7, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = one_level_loss(2, LossGains(1.0, 1.0, 1.0))([raw], centred_target())
    assert {part.dtype for part in loss} == {torch.float32}
    loss.total.backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_extreme_logits_stay_finite() -> None:
    for value in (-1e4, 1e4):
        raw = torch.full((1, 1, 1, 1, 7), value, requires_grad=True)
        loss = one_level_loss(2, LossGains(1.0, 1.0, 1.0))([raw], centred_target())
        loss.total.backward()
        assert loss.total.isfinite()
        assert raw.grad is not None
        assert raw.grad.isfinite().all()


@pytest.mark.parametrize("case", GOLDEN_SETTINGS)
def test_losses_and_gradients_equal_upstreams(case: str) -> None:
    golden = np.load(GOLDENS / f"loss_{case}.npz")
    hyp, smoothing = GOLDEN_SETTINGS[case]
    model = Detector(load_spec("yolov5n.yaml"))
    loss = build_loss(model, hyp, image_size=640, label_smoothing=smoothing)
    raw = [torch.from_numpy(golden[f"p{level}"]).requires_grad_() for level in range(3)]

    found = loss(raw, torch.from_numpy(golden["targets"]))
    found.total.backward()

    np.testing.assert_allclose(found.total.item(), golden["total"].item(), rtol=1e-6)
    np.testing.assert_allclose(torch.stack(found[1:]), golden["box_obj_cls"], rtol=1e-6)
    for level, maps in enumerate(raw):
        expected = golden[f"grad{level}"]
        # Tolerance relative to the largest value: the smallest ones suffer from cancellation.
        tolerance = 1e-6 * np.abs(expected).max()
        assert maps.grad is not None
        np.testing.assert_allclose(maps.grad, expected, rtol=1e-5, atol=tolerance)
