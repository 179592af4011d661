import pickle

import pytest
import torch

from utils.errors import RunInterruptedError, UserError
from utils.processes import ALONE, Processes, joined, started_processes


def test_one_process_has_nobody_to_ask() -> None:
    tensor = torch.tensor([1.0, 2.0])
    assert ALONE.first
    assert ALONE.total(tensor) is tensor
    assert ALONE.highest(3) == 3
    assert ALONE.from_first("value") == "value"
    with ALONE.first_goes_first():
        pass
    model = torch.nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    gradients = [p.grad for p in model.parameters()]
    ALONE.total_gradients(model)
    assert all(p.grad is before for p, before in zip(model.parameters(), gradients, strict=True))


def test_without_torchrun_a_process_is_alone() -> None:
    processes = started_processes()
    assert processes is ALONE
    with joined(processes, torch.device("cpu")):
        pass


def test_torchrun_tells_a_process_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="RANK, LOCAL_RANK, LOCAL_WORLD_SIZE is not"):
        started_processes()
    for name, value in (("RANK", "3"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert started_processes() == Processes(rank=3, count=4, local_rank=1, local_count=2)
    refused = pytest.raises(UserError, match="--device mps: several processes")
    with refused, joined(started_processes(), torch.device("mps")):
        pass


def test_an_interruption_can_be_told_to_others() -> None:
    told = pickle.loads(pickle.dumps(RunInterruptedError("SIGTERM", 143)))  # noqa: S301 -- our own
    assert (told.signal, told.exit_code) == ("SIGTERM", 143)
