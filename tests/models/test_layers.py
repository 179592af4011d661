import pytest
import torch
from torch import nn

from models.layers import C3, SPP, SPPF, Bottleneck, Concat, Conv, Focus


def test_conv_settings_match_the_pretrained_weights() -> None:
    conv = Conv(3, 8, 6, 2, 2)
    assert isinstance(conv.bn, nn.BatchNorm2d)
    assert (conv.bn.eps, conv.bn.momentum) == (1e-3, 0.03)
    assert isinstance(conv.act, nn.SiLU)
    assert conv.conv.bias is None


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "side"),
    [(1, 1, None, 8), (3, 1, None, 8), (3, 2, None, 4), (6, 2, 2, 4), (3, 1, 0, 6)],
)
def test_conv_output_side(kernel: int, stride: int, padding: int | None, side: int) -> None:
    output = Conv(3, 5, kernel, stride, padding)(torch.zeros(1, 3, 8, 8))
    assert output.shape == (1, 5, side, side)


def test_folded_conv_is_equivalent() -> None:
    conv = Conv(1, 1).eval()
    assert isinstance(conv.bn, nn.BatchNorm2d)
    with torch.no_grad():
        conv.conv.weight.fill_(2.0)
        conv.bn.weight.fill_(3.0)
        conv.bn.bias.fill_(0.5)
        conv.bn.running_mean.fill_(1.0)  # type: ignore[union-attr]
        conv.bn.running_var.fill_(4.0 - 1e-3)  # type: ignore[union-attr]
        conv.fold_batch_norm()
        conv.fold_batch_norm()  # a second call has no effect
        # (2x - 1) / 2 * 3 + 0.5 = 3x - 1 before the activation
        assert isinstance(conv.bn, nn.Identity)
        torch.testing.assert_close(conv.conv.weight.flatten(), torch.tensor([3.0]))
        assert conv.conv.bias is not None
        torch.testing.assert_close(conv.conv.bias, torch.tensor([-1.0]))


@pytest.mark.parametrize(
    ("inputs", "outputs", "shortcut", "adds"),
    [(4, 4, True, True), (4, 4, False, False), (4, 6, True, False)],
)
def test_bottleneck_shortcut(inputs: int, outputs: int, shortcut: bool, adds: bool) -> None:
    block = Bottleneck(inputs, outputs, shortcut=shortcut).eval()
    x = torch.ones(1, inputs, 4, 4)
    with torch.no_grad():
        block.cv2.conv.weight.zero_()  # the output is then the input, or zero
        expected = torch.ones if adds else torch.zeros
        assert torch.equal(block(x), expected(1, outputs, 4, 4))


def test_c3_submodule_names() -> None:
    block = C3(8, 16, repeats=2, shortcut=False)
    assert list(dict(block.named_children())) == ["cv1", "cv2", "cv3", "m"]
    assert len(block.m) == 2
    assert block(torch.zeros(2, 8, 4, 4)).shape == (2, 16, 4, 4)


def test_sppf_equals_spp() -> None:
    # A 5-pixel pool applied once, twice and three times covers 5, 9 and 13 pixels.
    spp, sppf = SPP(4, 6, (5, 9, 13)).eval(), SPPF(4, 6, 5).eval()
    sppf.load_state_dict(spp.state_dict())
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(sppf(x), spp(x))


def test_focus_order_matches_the_pretrained_weights() -> None:
    # One channel, one block | 1 2 |: upper left, lower left, upper right, lower right.
    #                        | 3 4 |
    focus = Focus(1, 4).eval()
    seen: list[torch.Tensor] = []
    focus.conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    focus(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    assert seen[0].flatten().tolist() == [1.0, 3.0, 2.0, 4.0]


def test_focus_keeps_channels_of_a_pixel_together() -> None:
    focus = Focus(2, 4).eval()
    seen: list[torch.Tensor] = []
    focus.conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    first = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    focus(torch.stack((first, first + 10))[None])
    assert seen[0].flatten().tolist() == [1.0, 11.0, 3.0, 13.0, 2.0, 12.0, 4.0, 14.0]


def test_concat_joins_channels() -> None:
    assert Concat(1)(torch.zeros(1, 2, 3, 3), torch.zeros(1, 4, 3, 3)).shape == (1, 6, 3, 3)
