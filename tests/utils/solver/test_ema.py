import pytest
import torch
from torch import nn

from utils.solver.ema import ModelEma, WeightAverage, ema_decay


@pytest.mark.parametrize(
    ("updates", "decay"), [(1, 0.00049983), (2000, 0.63205735), (20_000, 0.9998546)]
)
def test_decay_increases_to_its_final_value(updates: int, decay: float) -> None:
    assert ema_decay(updates) == pytest.approx(decay, abs=1e-7)


def test_update_moves_the_ema_weights_by_one_minus_the_decay() -> None:
    model = nn.BatchNorm1d(1)
    assert model.running_mean is not None
    assert model.num_batches_tracked is not None
    ema = ModelEma(model, updates=1999)
    with torch.no_grad():
        model.weight.fill_(3.0)  # the EMA weight is 1.0
        model.running_mean.fill_(1.0)  # the EMA covers the statistics too; it has 0.0
        model.num_batches_tracked.fill_(7)  # an integer tensor is copied
    ema.update(model)
    new_weight = 1 - ema_decay(2000)
    assert ema.updates == 2000
    assert ema.model.weight.item() == pytest.approx(1 + 2 * new_weight)
    state = ema.model.state_dict()
    assert state["running_mean"].item() == pytest.approx(new_weight)
    assert state["num_batches_tracked"].item() == 7
    assert not ema.model.weight.requires_grad
    assert not ema.model.training


def test_restored_ema_continues_identically() -> None:
    model = nn.Linear(2, 2)
    one = ModelEma(model)
    one.update(model)
    two = ModelEma(nn.Linear(2, 2))
    two.restore(one.model.state_dict(), one.updates)
    with torch.no_grad():
        model.weight.add_(1.0)
    one.update(model)
    two.update(model)
    assert two.updates == 2
    assert torch.equal(one.model.weight, two.model.weight)


def test_average_is_the_mean_of_all_updates() -> None:
    model = nn.BatchNorm1d(1)
    mean = WeightAverage(model)
    assert model.num_batches_tracked is not None
    with torch.no_grad():
        for number, value in enumerate((4.0, 5.0, 9.0), start=1):
            model.weight.fill_(value)
            model.num_batches_tracked.fill_(number)
            mean.update(model)
    assert (mean.updates, mean.model.weight.item()) == (3, 6.0)
    assert mean.model.get_buffer("num_batches_tracked").item() == 3
    assert mean.model.get_buffer("running_var").item() == 1.0
