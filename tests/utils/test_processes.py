import torch

from utils.processes import ALONE, joined_processes


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
    with joined_processes("cpu") as processes:
        assert processes is ALONE
