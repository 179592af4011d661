from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.cost import ELEMENTWISE_FLOPS, gflops
from models.detector import Detector
from models.spec import load_spec
from tests.models.test_detector import tiny_spec


def test_counts_2_per_multiply_add_and_4_per_elementwise_layer() -> None:
    model = Detector(tiny_spec())
    convolutions = 2 * (8 * 16 * 27 + 8 * 4 * 72) + 2 * (8 * 16 * 8 + 8 * 4 * 8)  # layers, head
    elementwise = 2 * 4 * (8 * 16 + 8 * 4)  # batch norm and SiLU
    assert gflops(model, size=8) == (convolutions + elementwise) / 1e9


@pytest.mark.parametrize(("name", "size"), [("yolov5n.yaml", 64), ("yolov5n6.yaml", 128)])
def test_count_equals_that_of_a_forward_pass(name: str, size: int) -> None:
    model = Detector(load_spec(Path(name))).eval()
    elements: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.SiLU):
            module.register_forward_hook(lambda *call: elements.append(call[-1].numel()))
    with FlopCounterMode(display=False) as convolutions, torch.no_grad():
        model(torch.zeros(1, 3, size, size))
    counted = convolutions.get_total_flops() + ELEMENTWISE_FLOPS * sum(elements)
    assert gflops(model, size) == counted / 1e9
