import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.assigner import ShapeRatioAssigner
from models.head import DetectionHead
from models.loss import DetectionLoss, LossGains, shares
from utils.datasets.dataset import Batch
from utils.evaluation import forward as module
from utils.evaluation.forward import Forward, Stopwatch, images_in_pass

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


@pytest.mark.parametrize("ahead", [False, True])
def test_parts_give_the_results_of_whole_batches(
    ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Small()
    gains = LossGains(box=0.05, obj=1.0, cls=0.5)
    loss = DetectionLoss(ShapeRatioAssigner(model.head.anchors, 4.0), gains, 2, (4.0, 1.0))
    batches = [make_batch(5), make_batch(3)]
    whole = list(make_forward(model, loss=loss)(batches))
    monkeypatch.setattr(module, "CPU_CHUNK_PIXELS", 2 * 32 * 48)
    parts = list(make_forward(model, loss=loss, ahead=ahead)(batches))
    assert model.seen == [5, 3, 2, 2, 1, 2, 1]
    assert [len(result.losses) for _, result in whole + parts] == [1, 1, 3, 2]
    for (batch, one), (same, other) in zip(parts, whole, strict=True):
        assert batch is same
        for found, expected in zip(one.candidates, other.candidates, strict=True):
            assert found.shape == (2 * 30, 6)  # of two classes
            torch.testing.assert_close(found, expected)
        counts = torch.stack([losses.counts for losses in one.losses]).sum(0)
        assert torch.equal(counts, other.losses[0].counts)
        summed = sum(shares(*losses, counts) for losses in one.losses)
        torch.testing.assert_close(summed, other.losses[0].means)
        assert (other.losses[0].means[:, 0] > 0).all()


def test_next_pass_is_launched_before_results_are_used() -> None:
    for ahead, seen in ((True, [[2, 3], [2, 3]]), (False, [[2], [2, 3]])):
        model = Small()
        found = make_forward(model, ahead=ahead)(make_batch(count) for count in (2, 3))
        assert [list(model.seen) for _ in found] == seen


def test_images_in_a_pass() -> None:
    gpu = torch.device("cuda")
    assert images_in_pass(CPU, 2, 640, 640) == 4
    assert images_in_pass(CPU, 99, 320, 640) == 8
    assert images_in_pass(CPU, 99, 9_000, 9_000) == 1
    assert images_in_pass(gpu, 99, 320, 640) == 99


def test_limit_divides_a_batch_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "images_in_pass", lambda _, limit, *size: limit)
    model = Small()
    list(make_forward(model, images_per_pass=2)([make_batch(5)]))
    assert model.seen == [2, 2, 1]


def test_there_are_no_losses_without_a_loss() -> None:
    ((_, result),) = make_forward(Small())([make_batch(3)])
    assert result.losses == []


def test_candidates_are_float32_in_low_precision() -> None:
    model = Small()
    ((_, result),) = make_forward(model, precision="bf16")([make_batch(1)])
    assert model.made == [torch.bfloat16]
    assert result.candidates[0].dtype == torch.float32


def test_stopwatch_counts_only_time_inside_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([1.0, 1.5, 10.0, 12.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(readings))
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch:
            pass
    assert watch.seconds == 2.5
