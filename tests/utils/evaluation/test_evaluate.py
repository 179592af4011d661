import warnings
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.detector import Detector
from models.loss import LossMeans
from utils.datasets.dataset import Batch, Frame
from utils.datasets.ignore_regions import IgnoreRegions
from utils.evaluation.collected import Collected, to_original
from utils.evaluation.evaluate import EvalSettings, Evaluation, collect, evaluate, summarize
from utils.history import fitness

CPU = torch.device("cpu")
NAMES = ("cat", "dog")
# An image of 200 x 100 px (height 100), scaled by 0.5 and padded to a square of 128 px.
FRAME = Frame("a/cat.jpg", original=(100, 200), ratio=(0.5, 0.5), pad=(14.0, 39.0))
# Two objects, in pixels of the network input: centre, size, class.
CAT = (44.0, 60.0, 20.0, 20.0, 0)
DOG = (90.0, 70.0, 30.0, 16.0, 1)


class FakeDetector(nn.Module):
    """A detector that returns given boxes [n, 7] for each image."""

    def __init__(self, answers: Sequence[Sequence[tuple[float, ...]]]) -> None:
        super().__init__()
        longest = max(map(len, answers), default=0)
        self.answers = torch.zeros(len(answers), longest, 5 + len(NAMES))
        for image, boxes in enumerate(answers):
            for row, (x, y, width, height, label, score) in enumerate(boxes):
                self.answers[image, row, :5] = torch.tensor([x, y, width, height, 1.0])
                self.answers[image, row, 5 + int(label)] = score
        self.modes: list[bool] = []
        self.inputs: list[Tensor] = []

    def forward(self, images: Tensor) -> list[Tensor]:
        self.modes.append(self.training)
        self.inputs.append(images)
        return [self.answers[: len(images)]]

    def decode_confident(self, raw: Sequence[Tensor], threshold: float) -> list[Tensor]:
        return [boxes[boxes[:, 4] > threshold] for boxes in raw[0].float()]


class FakeLoss:
    """A loss of one level with given means (box, class, objectness) and counts."""

    def __init__(
        self, means: Iterator[list[list[float]]], counts: Iterator[list[float]] | None = None
    ) -> None:
        self._means = means
        self._counts = counts or repeat([1.0, 1.0])

    def means(self, raw: list[Tensor], targets: Tensor, ignored: Tensor) -> LossMeans:
        return LossMeans(torch.tensor(next(self._means)), torch.tensor(next(self._counts)))

    def weighted(self, means: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return means[0].sum(), means[2].sum(), means[1].sum()


class Recorder:
    """An observer that keeps its batches and detections."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.detections: list[list[Tensor]] = []

    def __call__(self, batch: Batch, detections: list[Tensor]) -> None:
        self.batches.append(batch)
        self.detections.append(detections)


def make_batch(labels: Sequence[Sequence[tuple[float, ...]]], side: int = 128) -> Batch:
    """White images (255), with labels given as centre and size in pixels, class."""
    rows = [
        (image, label, x / side, y / side, width / side, height / side)
        for image, boxes in enumerate(labels)
        for x, y, width, height, label in boxes
    ]
    return Batch(
        images=torch.full((len(labels), 3, side, side), 255, dtype=torch.uint8),
        targets=torch.tensor(rows, dtype=torch.float32).reshape(-1, 6),
        indices=torch.arange(len(labels)),
        frames=(FRAME,) * len(labels),
    )


def run(model: FakeDetector, *batches: Batch, **options: Any) -> Evaluation:
    return evaluate(model, batches, names=NAMES, device=CPU, **options)  # type: ignore[arg-type]


def regions_of(*images: Sequence[tuple[float, ...]]) -> IgnoreRegions:
    """Ignore regions given as centre and size in pixels of the network input."""
    rows = [
        ((x - 14) / 100, (y - 39) / 50, width / 100, height / 50)
        for image in images
        for x, y, width, height in image
    ]
    offsets = np.cumsum([0, *map(len, images)])
    return IgnoreRegions(np.array(rows, np.float32).reshape(-1, 4), offsets)


def test_perfect_detections() -> None:
    model = FakeDetector([[(*CAT, 0.9), (*DOG, 0.8)], [(*DOG, 0.7)]])
    result = run(model, make_batch([[CAT, DOG], [DOG]]))
    assert (result.precision, result.recall) == (1.0, 1.0)
    assert (result.map50, result.map50_95) == pytest.approx((0.995, 0.995))
    assert fitness(result.map50, result.map50_95) == pytest.approx(0.995)
    assert (result.images, result.instances) == (2, 3)
    assert [(c.index, c.name, c.images, c.instances) for c in result.classes] == [
        (0, "cat", 2, 1),
        (1, "dog", 2, 2),
    ]
    assert result.confusion.tolist() == [[1, 0, 0], [0, 2, 0], [0, 0, 0]]
    assert result.losses == (0.0, 0.0, 0.0)
    assert all(value >= 0 for value in result.speed_ms)


def test_boxes_are_compared_in_original_pixels_after_clipping() -> None:
    # The cat's label ends at the left edge of the image (x = 14 in the input); the detection
    # extends 10 px into the padding, which is not part of the image.
    label = (24.0, 60.0, 20.0, 20.0, 0)
    detection = (19.0, 60.0, 30.0, 20.0, 0, 0.9)
    assert run(FakeDetector([[detection]]), make_batch([[label]])).map50_95 == pytest.approx(0.995)


def test_class_is_ignored_with_single_class() -> None:
    model, batch = FakeDetector([[(*CAT[:4], 1, 0.9)]]), make_batch([[CAT]])
    assert run(model, batch).map50 == 0.0
    result = run(model, batch, settings=EvalSettings(single_class=True))
    assert result.map50 == pytest.approx(0.995)
    assert result.names == ("item",)
    assert [(c.index, c.name) for c in result.classes] == [(0, "item")]
    assert result.confusion.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("x", "wrong"),
    [
        (90.0, 0),  # the detection is entirely inside the region
        (78.0, 0),  # 16 of its 30 pixels are inside
        (76.0, 1),  # 14 of its 30 pixels are inside
    ],
)
def test_detections_in_ignore_regions_are_ignored(x: float, wrong: int) -> None:
    model = FakeDetector([[(*CAT, 0.8), (x, *DOG[1:], 0.9)]])
    settings = EvalSettings(ignore=regions_of([(94.0, 70.0, 34.0, 36.0)]))
    batch = make_batch([[CAT, (30.0, 50.0, 8.0, 8.0, 1)]])
    result = run(model, batch, settings=settings)
    assert result.confusion.tolist() == [[1, 0, 0], [0, 0, wrong], [0, 1, 0]]
    assert result.instances == 2


def test_true_positives_in_ignore_regions_count() -> None:
    model, batch = FakeDetector([[(*DOG, 0.9)], [(*CAT, 0.8)]]), make_batch([[DOG], [CAT]])
    everywhere = [(64.0, 64.0, 100.0, 50.0)]
    settings = EvalSettings(ignore=regions_of(everywhere, everywhere))
    assert run(model, batch, settings=settings).map50_95 == run(model, batch).map50_95 > 0.99


def test_ignore_regions_follow_image_indices() -> None:
    model, batch = FakeDetector([[(*CAT, 0.9)], [(*CAT, 0.9)]]), make_batch([[DOG], [DOG]])
    batch = batch._replace(indices=torch.tensor([2, 0]))
    settings = EvalSettings(ignore=regions_of([], [], [(44.0, 60.0, 20.0, 20.0)]))
    assert run(model, batch, settings=settings).confusion[0].tolist() == [0, 0, 1]
    settings = EvalSettings(ignore=regions_of([], [(44.0, 60.0, 20.0, 20.0)], []))
    assert run(model, batch, settings=settings).confusion[0].tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    ("answers", "labels"),
    [
        ([[]], [[]]),  # no label, no detection
        ([[]], [[CAT]]),  # no detection
        ([[(*CAT, 0.9)]], [[]]),  # no label
    ],
)
def test_missing_labels_or_detections_give_zeros_without_a_warning(
    answers: list[list[tuple[float, ...]]], labels: list[list[tuple[float, ...]]]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = run(FakeDetector(answers), make_batch(labels))
    metrics = (result.precision, result.recall, result.map50, result.map50_95)
    assert metrics == (0.0, 0.0, 0.0, 0.0)
    assert result.instances == len(labels[0])


def test_no_batches_give_zeros() -> None:
    result = run(FakeDetector([]))
    assert (result.images, result.map50, result.speed_ms) == (0, 0.0, (0.0, 0.0, 0.0))
    assert result.classes == ()


def test_images_are_scaled_to_0_to_1() -> None:
    model = FakeDetector([[]])
    run(model, make_batch([[CAT]]))
    assert model.inputs[0].dtype == torch.float32
    assert model.inputs[0].unique().tolist() == [1.0]


@pytest.mark.parametrize("training", [True, False])
def test_eval_mode_is_set_and_restored(training: bool) -> None:
    model = FakeDetector([[]])
    model.train(training)
    run(model, make_batch([[CAT]]))
    assert (model.modes, model.training) == ([False], training)


def test_mode_is_restored_after_an_error() -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    model = FakeDetector([[]])
    with pytest.raises(RuntimeError):
        run(model, make_batch([[CAT]]), observers=[fail])
    assert model.training


def test_losses_are_means_over_batches() -> None:
    batch = make_batch([[CAT]])
    loss: Any = FakeLoss(iter([[[1.0], [3.0], [2.0]], [[3.0], [5.0], [6.0]]]))
    assert run(FakeDetector([[]]), batch, batch, loss=loss).losses == (2.0, 4.0, 4.0)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_shares_of_several_processes_give_the_metrics_of_one(processes: int) -> None:
    """The parts are images 0 and 1 of a batch, image 2 of the same batch, and another batch."""
    answers = [[(*CAT, 0.9), (*DOG, 0.8)], [(*DOG, 0.7), (*CAT, 0.7)], [(*DOG, 0.7)]]
    parts = [make_batch([[CAT], [DOG]]), make_batch([[CAT]]), make_batch([[DOG], [], [CAT, DOG]])]
    models = [FakeDetector(answers[:2]), FakeDetector(answers[2:]), FakeDetector(answers)]
    means = [[[0.5], [0.0], [1.0]], [[2.0], [0.0], [4.0]], [[1.0], [0.0], [1.5]]]
    counts = [[2.0, 2.0], [1.0, 1.0], [3.0, 3.0]]

    def loss_of(*numbers: int) -> Any:
        return FakeLoss(iter(means[i] for i in numbers), iter(counts[i] for i in numbers))

    one_by_one = [
        collect(cast("Detector", model), [part], names=NAMES, device=CPU, loss=loss_of(number))
        for number, (model, part) in enumerate(zip(models, parts, strict=True))
    ]
    found = []
    for rank in range(processes):
        own = Collected.for_classes(len(NAMES))
        for part in one_by_one[rank::processes]:
            own.batches += part.batches
            own.confusion += part.confusion
        found.append(own)
    how: Any = {"names": NAMES, "loss": loss_of(), "settings": EvalSettings()}
    result = summarize(found, [0, 0, 1], **how)
    assert result.losses == pytest.approx(((0.5 * 2 / 3 + 2.0 / 3 + 1) / 2, (2 + 1.5) / 2, 0))
    together = Collected.for_classes(len(NAMES))
    for one in one_by_one:
        together.batches += one.batches
        together.confusion += one.confusion
    expected = summarize([together], [0, 0, 1], **how)
    assert result.losses == expected.losses
    assert (result.map50, result.map50_95) == (expected.map50, expected.map50_95)
    assert result.confusion.tolist() == expected.confusion.tolist()
    assert (result.images, result.instances) == (6, 6)


def test_observers_get_detections_in_input_pixels_best_first() -> None:
    recorder = Recorder()
    batch = make_batch([[CAT], [DOG]])
    run(FakeDetector([[(*CAT, 0.5), (*DOG, 0.75)], []]), batch, observers=[recorder])
    assert recorder.batches[0] is batch
    detections = recorder.detections[0]
    assert detections[0].tolist() == [[75, 62, 105, 78, 0.75, 1], [34, 50, 54, 70, 0.5, 0]]
    assert detections[1].shape == (0, 6)


def test_settings_are_used_by_nms() -> None:
    model = FakeDetector([[(*CAT, 0.9), (*DOG, 0.3)]])
    recorder = Recorder()
    batch = make_batch([[CAT]])
    for settings in (EvalSettings(), EvalSettings(conf_thres=0.5), EvalSettings(max_det=1)):
        run(model, batch, settings=settings, observers=[recorder])
    assert [len(found[0]) for found in recorder.detections] == [2, 1, 1]


def test_bf16_is_used_for_the_forward_pass_only() -> None:
    class Product(FakeDetector):
        def forward(self, images: Tensor) -> list[Tensor]:
            self.product = torch.ones(1, 1) @ torch.ones(1, 1)
            return [raw.bfloat16() for raw in super().forward(images)]

    model = Product([[(*CAT, 0.9)]])
    recorder = Recorder()
    run(model, make_batch([[CAT]]), settings=EvalSettings(precision="bf16"), observers=[recorder])
    assert model.product.dtype == torch.bfloat16
    assert recorder.detections[0][0].dtype == torch.float32


def test_to_original_reverts_the_letterbox() -> None:
    found = torch.tensor([[34.0, 50.0, 54.0, 70.0, 0.5, 1.0]])
    assert to_original(found, FRAME).tolist() == [[40, 22, 80, 62, 0.5, 1]]
