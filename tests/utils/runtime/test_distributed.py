import pickle

import pytest
import torch

from utils.errors import RunInterruptedError, UserError
from utils.runtime.distributed import (
    SINGLE_PROCESS,
    Distributed,
    distributed_from_environment,
    process_group,
)


def test_single_process_collectives_return_the_input() -> None:
    tensor = torch.tensor([1.0, 2.0])
    assert SINGLE_PROCESS.is_main
    assert SINGLE_PROCESS.all_reduce_sum(tensor) is tensor
    assert SINGLE_PROCESS.all_reduce_max(3) == 3
    assert SINGLE_PROCESS.broadcast("value") == "value"
    with SINGLE_PROCESS.main_first():
        pass
    model = torch.nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    gradients = [p.grad for p in model.parameters()]
    SINGLE_PROCESS.all_reduce_gradients(model)
    assert all(p.grad is before for p, before in zip(model.parameters(), gradients, strict=True))


def test_single_process_without_torchrun() -> None:
    distributed = distributed_from_environment()
    assert distributed is SINGLE_PROCESS
    with process_group(distributed, torch.device("cpu")):
        pass


def test_rank_and_world_size_from_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="RANK, LOCAL_RANK, LOCAL_WORLD_SIZE is not set"):
        distributed_from_environment()
    for name, value in (("RANK", "3"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert distributed_from_environment() == Distributed(
        rank=3, world_size=4, local_rank=1, local_world_size=2
    )
    refused = pytest.raises(UserError, match="--device mps: distributed training needs")
    with refused, process_group(distributed_from_environment(), torch.device("mps")):
        pass


def test_run_interrupted_error_can_be_pickled() -> None:
    loaded = pickle.loads(pickle.dumps(RunInterruptedError("SIGTERM", 143)))  # noqa: S301 -- our own
    assert (loaded.cause, loaded.exit_code) == ("SIGTERM", 143)
