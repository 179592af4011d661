import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.assigner import ShapeRatioAssigner
from models.head import DetectionHead
from models.loss import DetectionLoss, LossGains
from utils.datasets.dataset import Batch
from utils.evaluation import forward as module
from utils.evaluation.forward import Forward, Stopwatch

CPU = torch.device("cpu")


class Small(nn.Module):
    """A model with two levels; features are mean colours of 8 x 8 and 16 x 16 pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = DetectionHead(2, [[8, 16], [32, 64]], [3, 3], [8, 16])
        self.seen: list[int] = []
        self.made: list[torch.dtype] = []

    def forward(self, images: Tensor) -> list[Tensor]:
        self.seen.append(len(images))
        pools = [nn.functional.avg_pool2d(images, side) for side in (8, 16)]
        raw: list[Tensor] = self.head(*pools)
        self.made.append(raw[0].dtype)
        return raw

    def decode_confident(self, raw: list[Tensor], threshold: float) -> list[Tensor]:
        return self.head.decode_confident(raw, threshold)


def make_batch(count: int) -> Batch:
    """Random images of 32 x 48 px, each with a region; the third one has no target."""
    generator = torch.Generator().manual_seed(1)
    targets = [
        (image, label, x, 0.5, 0.2, 0.3)
        for image in range(count)
        for label, x in ((0, 0.3), (1, 0.7))
        if image != 2
    ]
    return Batch(
        images=torch.randint(256, (count, 3, 32, 48), dtype=torch.uint8, generator=generator),
        targets=torch.tensor(targets),
        indices=torch.arange(count),
        frames=(),
        ignored=torch.tensor([(image, 0.1, 0.1 * image, 0.2, 0.2) for image in range(count)]),
    )


def make_forward(model: Small, **options: Any) -> Forward:
    return Forward(model, CPU, **{"precision": "fp32", "threshold": 0.0, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", ["pixels", "images"])
def test_chunks_give_the_results_of_the_whole_batch(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Small()
    gains = LossGains(box=0.05, obj=1.0, cls=0.5)
    loss = DetectionLoss(ShapeRatioAssigner(model.head.anchors, 4.0), gains, 2, (4.0, 1.0))
    forward = make_forward(model, loss=loss)
    whole = forward(make_batch(5))
    if limit == "pixels":
        monkeypatch.setattr(module, "CPU_CHUNK_PIXELS", 2 * 32 * 48)
    else:
        forward = make_forward(model, loss=loss, images_per_pass=2)
    parts = forward(make_batch(5))
    assert model.seen == [5, 2, 2, 1]
    for one, other in zip(parts.boxes, whole.boxes, strict=True):
        assert one.shape == (30, 7)
        torch.testing.assert_close(one, other)
    assert (whole.losses > 0).all()
    torch.testing.assert_close(parts.losses, whole.losses)


def test_losses_are_zero_without_a_loss() -> None:
    assert make_forward(Small())(make_batch(3)).losses.tolist() == [0, 0, 0]


def test_chunk_has_at_least_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CPU_CHUNK_PIXELS", 1)
    model = Small()
    found = make_forward(model, threshold=1.0)(make_batch(2))
    assert model.seen == [1, 1]
    assert [len(boxes) for boxes in found.boxes] == [0, 0]


def test_boxes_are_float32_in_low_precision() -> None:
    model = Small()
    (boxes,) = make_forward(model, precision="bf16")(make_batch(1)).boxes
    assert model.made == [torch.bfloat16]
    assert boxes.dtype == torch.float32


def test_stopwatch_counts_only_time_inside_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([1.0, 1.5, 10.0, 12.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(readings))
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch:
            pass
    assert watch.seconds == 2.5
