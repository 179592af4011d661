import json
from pathlib import Path

import pytest
import torch
from torch import nn

from models.detector import Detector
from models.spec import load_spec
from tests.paths import GOLDENS
from utils.errors import UserError
from utils.solver.optimizers import OPTIMIZERS
from utils.solver.param_groups import (
    apply_settings,
    build_optimizer,
    optimizer_buffers,
    parameter_groups,
    restore_buffers,
)
from utils.solver.schedule import StepSettings


def tiny() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def optimizer_of(model: nn.Module, name: str = "SGD") -> torch.optim.Optimizer:
    return build_optimizer(parameter_groups(model), name, lr=0.1, momentum=0.9, weight_decay=0.5)


def test_parameter_names_equal_the_goldens() -> None:
    groups = parameter_groups(Detector(load_spec(Path("yolov5n.yaml"))))
    expected = json.loads((GOLDENS / "optimizer_groups_yolov5n.json").read_text())
    for group, wanted in zip((groups.bias, groups.weight, groups.norm), expected, strict=True):
        assert list(group) == wanted["names"]


def test_only_weights_decay_and_frozen_parameters_are_excluded() -> None:
    model = tiny()
    model[1].weight.requires_grad_(False)
    groups = parameter_groups(model)
    assert groups.names == ["0.bias", "1.bias", "0.weight"]
    assert [g["weight_decay"] for g in optimizer_of(model).param_groups] == [0.0, 0.5, 0.0]


def test_freezing_all_parameters_is_rejected() -> None:
    with pytest.raises(UserError, match="--freeze leaves no parameter"):
        optimizer_of(tiny().requires_grad_(False))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_settings_reach_every_group(name: str) -> None:
    optimizer = optimizer_of(tiny(), name)
    assert type(optimizer).__name__ == name
    apply_settings(optimizer, StepSettings(bias_lr=0.3, lr=0.2, momentum=0.7, accumulate=1))
    assert [g["lr"] for g in optimizer.param_groups] == [0.3, 0.2, 0.2]
    assert {g["momentum"] if name == "SGD" else g["betas"][0] for g in optimizer.param_groups} == {
        0.7
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_equal_those_of_the_torch_optimizer(name: str) -> None:
    model, twin = tiny(), tiny()
    ours = optimizer_of(model, name)
    kept = {key: value for key, value in ours.defaults.items() if key != "weight_decay"}
    groups = parameter_groups(twin)
    members = [
        {"params": list(group.values()), "weight_decay": decay}
        for group, decay in ((groups.bias, 0.0), (groups.weight, 0.5), (groups.norm, 0.0))
    ]
    kept.pop("decoupled_weight_decay", None)  # which makes it AdamW
    theirs = getattr(torch.optim, name)(members, **kept)
    images = torch.rand(3, 2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    for one, optimizer in ((model, ours), (twin, theirs)):
        for image in images:
            optimizer.zero_grad()
            one(image).square().mean().backward()
            optimizer.step()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[key]), key
    assert not any(p.isnan().any() for p in model.parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_buffers_are_keyed_by_name_and_restored_optimizer_steps_identically(name: str) -> None:
    model, twin = tiny(), tiny()
    one, two = optimizer_of(model, name), optimizer_of(twin, name)
    image = torch.ones(2, 1, 3, 3)

    def step(m: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        m(image).square().sum().backward()
        optimizer.step()

    step(model, one)
    names = parameter_groups(model).names
    buffers = optimizer_buffers(one, names)
    assert set(buffers) == set(names)
    twin.load_state_dict(model.state_dict())
    restore_buffers(two, names, buffers)
    step(model, one)
    step(twin, two)
    for name_, tensor in model.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[name_])


def test_parameter_without_saved_buffers_starts_without_momentum() -> None:
    names = ["0.bias", "1.bias", "0.weight", "1.weight"]
    for name, keys in (("SGD", {"momentum_buffer"}), ("AdamW", set[str]())):
        optimizer = optimizer_of(tiny(), name)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter] = {"momentum_buffer": torch.ones_like(parameter)}
        restore_buffers(optimizer, names, {})
        buffers = list(optimizer.state_dict()["state"].values())
        assert all(set(one) == keys for one in buffers)
        assert not any(tensor.any() for one in buffers for tensor in one.values())
        assert len(buffers) == (4 if keys else 0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_step_is_skipped_where_the_device_says_so(name: str) -> None:
    """From the first step on; a skipped step has no effect on the later ones."""
    moved = []
    for skipped in ((), (0,), (2,)):
        model = tiny()
        optimizer = optimizer_of(model, name)
        for step in range(3 + len(skipped)):
            optimizer.zero_grad()
            model(torch.full((2, 1, 3, 3), 0.5)).square().mean().backward()
            optimizer.grad_scale = None  # type: ignore[attr-defined]
            optimizer.found_inf = torch.tensor(float(step in skipped))  # type: ignore[attr-defined]
            if step in skipped:
                for parameter in model.parameters():
                    parameter.grad = torch.full_like(parameter, torch.nan)
            optimizer.step()
        moved.append([parameter.clone() for parameter in model.parameters()])
    assert all(map(torch.equal, moved[0], moved[1]))
    assert all(map(torch.equal, moved[0], moved[2]))


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_restored_buffers_are_independent_of_the_memory_format(name: str) -> None:
    def stepped(layout: torch.memory_format) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Conv2d(3, 4, 3).to(memory_format=layout)
        optimizer = optimizer_of(model, name)
        rows = torch.arange(108.0).reshape(4, 3, 3, 3)  # memory format of YOLOv5's checkpoints
        moments = {"step": torch.tensor(1.0), "exp_avg": rows, "exp_avg_sq": rows + 1}
        buffers = {"momentum_buffer": rows} if name == "SGD" else moments
        restore_buffers(optimizer, ["bias", "weight"], {"weight": buffers})
        model(torch.ones(1, 3, 3, 3)).sum().backward()
        optimizer.step()
        return model.weight.detach().contiguous()

    torch.testing.assert_close(stepped(torch.channels_last), stepped(torch.contiguous_format))


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_step_works_if_some_parameters_have_no_saved_buffers(name: str) -> None:
    last = nn.Conv2d(2, 1, 1)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), last)
    names = ["0.bias", "1.bias", "0.weight", "1.weight"]
    trained = optimizer_of(model, name)
    model(torch.ones(1, 1, 2, 2)).sum().backward()
    trained.step()
    kept = {key: own for key, own in optimizer_buffers(trained, names).items() if key[0] == "0"}
    optimizer = optimizer_of(model, name)
    restore_buffers(optimizer, names, kept)
    before = last.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(last.weight, before)
