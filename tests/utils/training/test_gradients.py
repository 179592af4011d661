from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from utils.runtime.distributed import SINGLE_PROCESS, Distributed
from utils.training import gradients as module
from utils.training.gradients import FlatGradients


class Twin(Distributed):
    """Two processes with equal gradients; notes what is summed, and what is waited for."""

    def __init__(self) -> None:
        super().__init__(world_size=2)
        object.__setattr__(self, "started", [])
        object.__setattr__(self, "waited", [])

    started: list[int]
    waited: list[int]

    def start_sum(self, tensor: Tensor) -> Callable[[], None]:
        self.started.append(len(tensor))
        tensor.mul_(2)
        return lambda: self.waited.append(len(tensor))


def layers() -> nn.Sequential:
    """Weights and biases of 864 + 32, 9,216 + 32 and 9,216 + 32 numbers, channels_last."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 32, 3))
    return model.to(memory_format=torch.channels_last)


def backward(model: nn.Module) -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model(images).square().mean().backward()


def test_gradients_are_views_with_the_layout_of_their_parameters() -> None:
    model, plain = layers(), layers()
    flat = FlatGradients(list(model.parameters())).flat
    for _ in range(2):
        backward(model)
        backward(plain)
    start = 0
    for own, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert own.grad is not None
        assert other.grad is not None
        assert own.grad.stride() == own.stride()
        assert own.grad.data_ptr() == flat[start:].data_ptr()
        assert torch.equal(own.grad, other.grad)
        start += own.numel()
    assert len(flat) == start


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        (1 << 30, [19_392]),
        (38_000, [9_280, 10_112]),
        (20_000, [32, 9_248, 10_112]),
        (1, [32, 9_248, 10_112]),
    ],
)
def test_buckets_are_summed_from_the_last_on(
    size: int, parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUCKET_BYTES", size)
    model, twin = layers(), Twin()
    gradients = FlatGradients(list(model.parameters()))
    backward(model)
    expected = gradients.flat * 2
    for _ in range(2):
        gradients.flat.zero_()
        twin.started.clear()
        with gradients.summed(twin):
            backward(model)
            during = list(twin.started)
        assert torch.equal(gradients.flat, expected)
        assert twin.started == parts
        assert during == (parts if len(parts) > 1 else [])
    assert twin.waited == parts * 2


def test_buckets_are_summed_without_a_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last batch of an epoch may be skipped while gradients of earlier ones are there."""
    monkeypatch.setattr(module, "BUCKET_BYTES", 1)
    model, twin = layers(), Twin()
    gradients = FlatGradients(list(model.parameters()))
    backward(model)
    expected = gradients.flat * 2
    with gradients.summed(twin):
        pass
    assert torch.equal(gradients.flat, expected)


def test_error_in_the_backward_pass_leaves_no_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUCKET_BYTES", 1)
    model, twin = layers(), Twin()
    gradients = FlatGradients(list(model.parameters()))
    with pytest.raises(ValueError, match="in the body"), gradients.summed(twin):
        raise ValueError("in the body")
    backward(model)
    assert twin.started == []


def test_single_process_sums_nothing() -> None:
    model = layers()
    gradients = FlatGradients(list(model.parameters()))
    with gradients.summed(SINGLE_PROCESS):
        backward(model)
    assert gradients.flat.any()


def test_model_without_trained_parameters() -> None:
    assert FlatGradients([]).flat.shape == (0,)
