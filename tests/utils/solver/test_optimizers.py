import pytest
from torch import nn

from utils.errors import UserError
from utils.solver.optimizers import (
    DEFAULT_OPTIMIZER,
    OPTIMIZERS,
    optimizer_from_buffers,
    optimizer_from_flags,
    optimizer_kind,
)
from utils.solver.param_groups import build_optimizer, parameter_groups

SETTINGS = {
    "SGD": ({"momentum": 0.9}, {"nesterov": True}),
    "Adam": ({"betas": (0.9, 0.999)}, {}),
    "AdamW": ({"betas": (0.9, 0.999)}, {}),
}


def test_names_are_in_display_order() -> None:
    assert OPTIMIZERS[:3] == ("SGD", "Adam", "AdamW")
    assert len(set(OPTIMIZERS)) == len(OPTIMIZERS)
    assert DEFAULT_OPTIMIZER == "SGD"


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_a_momentum(name: str) -> None:
    kind = optimizer_kind(name)
    assert (kind.momentum(0.9), kind.extra(0.9)) == SETTINGS[name]


def test_nesterov_is_off_without_momentum() -> None:
    assert optimizer_kind("SGD").extra(0.0) == {"nesterov": False}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_built_optimizer_has_name_and_settings_of_its_definition(name: str) -> None:
    groups = parameter_groups(nn.Conv2d(1, 1, 1))
    optimizer = build_optimizer(groups, name, lr=0.1, momentum=0.9, weight_decay=0.5)
    assert type(optimizer).__name__ == name
    kind = optimizer_kind(name)
    for key, value in {**kind.momentum(0.9), **kind.extra(0.9), "lr": 0.1}.items():
        assert [group[key] for group in optimizer.param_groups] == [value] * 3


def test_unknown_optimizer_is_rejected() -> None:
    with pytest.raises(UserError, match=r"^--optimizer Sgd: choose one of SGD, Adam, AdamW"):
        optimizer_kind("Sgd")


@pytest.mark.parametrize(
    ("buffers", "named", "expected"),
    [
        ({"step", "exp_avg", "exp_avg_sq"}, None, "Adam"),
        ({"step", "exp_avg", "exp_avg_sq"}, "Adam", "Adam"),
        ({"step", "exp_avg", "exp_avg_sq"}, "AdamW", "AdamW"),
        ({"step", "exp_avg", "exp_avg_sq"}, "SGD", "Adam"),  # the options are wrong
        ({"step", "exp_avg", "exp_avg_sq"}, [], "Adam"),
        ({"momentum_buffer"}, "AdamW", None),
        (set(), "AdamW", None),
    ],
)
def test_optimizer_from_buffers_of_yolov5(
    buffers: set[str], named: object, expected: str | None
) -> None:
    assert optimizer_from_buffers(buffers, named) == expected


def test_optimizer_from_a_flag_of_yolov5() -> None:
    assert optimizer_from_flags({"adam": True}) == "Adam"
    assert optimizer_from_flags({"adam": False}) is None
    assert optimizer_from_flags({}) is None
