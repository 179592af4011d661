import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from utils.datasets.dataset import Batch
from utils.runtime.distributed import Distributed
from utils.training.batch_norm import (
    BatchNormStats,
    SyncBatchNorm2d,
    convert_sync_batchnorm,
    recompute_statistics,
)

IMAGES = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1


def norm() -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(2, eps=1e-3, momentum=0.03)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return nn.Sequential(nn.Conv2d(3, 2, 1), norm)


def test_restore_is_bit_exact() -> None:
    model = norm().train()
    model(IMAGES)
    statistics = BatchNormStats(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    statistics.snapshot()
    model(IMAGES * torch.nan)
    assert model.get_buffer("1.running_mean").isnan().all()
    statistics.restore()
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_model_without_batch_norm() -> None:
    statistics = BatchNormStats(nn.Conv2d(3, 3, 1))
    statistics.snapshot()
    statistics.restore()
    statistics.average(Distributed(0, 2))


def test_recomputed_statistics_are_the_means_over_all_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8, generator=generator)
    parts = [images[:2], images[2:4], images[4:]]
    batches = [Batch(part, torch.empty(0, 6), torch.arange(len(part)), ()) for part in parts]
    model = norm().train()
    model(IMAGES)  # leaves other statistics
    weights = {name: p.clone() for name, p in model.named_parameters()}
    checks: list[int] = []
    recompute_statistics(model, batches, torch.device("cpu"), lambda: checks.append(1))
    outputs = [model[0](part / 255).double() for part in parts]  # before the norm
    mean = sum(out.mean((0, 2, 3)) for out in outputs) / 3
    variance = sum(out.var((0, 2, 3)) for out in outputs) / 3
    torch.testing.assert_close(model.get_buffer("1.running_mean").double(), mean)
    torch.testing.assert_close(model.get_buffer("1.running_var").double(), variance)
    assert len(checks) == 3
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())


def test_model_without_batch_norm_needs_no_images() -> None:
    recompute_statistics(nn.Conv2d(3, 3, 1), iter(()), torch.device("cpu"), lambda: None)


def test_sync_batch_norm_keeps_names_parameters_and_buffers() -> None:
    model = norm()
    parts = dict(model.named_parameters()) | dict(model.named_buffers())
    shared = convert_sync_batchnorm(model)
    assert isinstance(shared[1], SyncBatchNorm2d)
    assert (shared[1].eps, shared[1].momentum) == (1e-3, 0.03)
    after = dict(shared.named_parameters()) | dict(shared.named_buffers())
    assert all(after[name] is parts[name] for name in parts)
    model.eval()
    torch.testing.assert_close(shared(IMAGES), norm().eval()(IMAGES))


def _half(rank: int, port: int, results: "mp.Queue[dict[str, list[float]]]") -> None:
    """One of two processes: trains on images 0 and 2, or 1 and 3, and averages statistics."""
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    images = IMAGES[rank::2].clone().requires_grad_()
    model = convert_sync_batchnorm(norm().train())
    out = model(images)
    (out * out).sum().backward()
    assert images.grad is not None
    weight = model.get_parameter("1.weight").grad
    assert weight is not None
    plain = nn.BatchNorm2d(1)
    plain.get_buffer("running_mean").fill_(rank)
    BatchNormStats(plain).average(Distributed(rank, 2))
    own = {
        "out": out,
        "gradient": images.grad,
        "mean": model.get_buffer("1.running_mean"),
        "variance": model.get_buffer("1.running_var"),
        "weight": Distributed(rank, 2).all_reduce_sum(weight),
        "averaged": plain.get_buffer("running_mean"),
    }
    results.put({"rank": [rank], **{name: t.flatten().tolist() for name, t in own.items()}})
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def halves() -> list[dict[str, Tensor]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    results = context.Queue()
    distributed = [context.Process(target=_half, args=(rank, port, results)) for rank in (0, 1)]
    for process in distributed:
        process.start()
    found = sorted((results.get(timeout=120) for _ in distributed), key=lambda half: half["rank"])
    for process in distributed:
        process.join(30)
    return [{name: torch.tensor(values) for name, values in half.items()} for half in found]


def test_sync_batch_norm_sees_the_images_of_all_processes(halves: list[dict[str, Tensor]]) -> None:
    images = IMAGES.clone().requires_grad_()
    model = norm().train()
    out = model(images)
    (out * out).sum().backward()
    assert images.grad is not None
    for rank, half in enumerate(halves):
        torch.testing.assert_close(half["out"], out[rank::2].flatten())
        torch.testing.assert_close(half["gradient"], images.grad[rank::2].flatten())
        torch.testing.assert_close(half["mean"], model.get_buffer("1.running_mean"))
        torch.testing.assert_close(half["variance"], model.get_buffer("1.running_var"))
        torch.testing.assert_close(half["weight"], model.get_parameter("1.weight").grad)


def test_statistics_are_averaged_across_processes(halves: list[dict[str, Tensor]]) -> None:
    assert [half["averaged"].tolist() for half in halves] == [[0.5], [0.5]]
