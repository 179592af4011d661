import pytest
import torch

from utils.errors import UserError
from utils.runtime import (
    Precision,
    choose_precision,
    images_to_device,
    memory_in_use,
    select_device,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "gpus", "device"),
    [
        ("", 0, "cpu"),
        ("", 2, "cuda:0"),
        ("cpu", 2, "cpu"),
        ("CPU", 0, "cpu"),
        ("1", 2, "cuda:1"),
        ("cuda:1", 2, "cuda:1"),
        ("cuda", 1, "cuda:0"),
    ],
)
def test_devices(monkeypatch: pytest.MonkeyPatch, text: str, gpus: int, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert str(select_device(text)) == device


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1", "--device 1: this machine has 1 CUDA devices; use --device cpu"),
        ("0,1", "--device 0,1: give one device"),
        ("tpu", "--device tpu: give one device"),
    ],
)
def test_devices_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=message):
        select_device(text)


@pytest.mark.parametrize(
    ("amp", "bf16", "name"),
    [
        ("off", True, "fp32"),
        ("bf16", False, "bf16"),
        ("auto", True, "bf16"),
        ("auto", False, "fp32"),
    ],
)
def test_number_formats_of_a_cpu(
    monkeypatch: pytest.MonkeyPatch, amp: str, bf16: bool, name: str
) -> None:
    monkeypatch.setattr("utils.runtime._cpu_multiplies_bf16", lambda: bf16)
    precision = choose_precision(amp, CPU)
    assert precision.name == name
    assert not precision.needs_scaler
    with precision.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if name == "bf16" else torch.float32)


@pytest.mark.parametrize(("capability", "name"), [((7, 5), "fp16"), ((8, 0), "bf16")])
def test_number_formats_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    precision = choose_precision("auto", torch.device("cuda:0"))
    assert precision.name == name
    assert precision.needs_scaler == (name == "fp16")


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(UserError, match="--amp fp16 needs a GPU"):
        choose_precision("fp16", CPU)


def test_memory_is_told_in_gigabytes() -> None:
    assert 0.01 < memory_in_use(CPU) < 100


def test_images_become_fractions_channels_last() -> None:
    images = images_to_device(torch.full((2, 3, 4, 6), 255, dtype=torch.uint8), CPU)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.unique().tolist() == [1.0]


@pytest.mark.parametrize(
    ("name", "device", "judged"),
    [("bf16", "cpu", "fp32"), ("fp32", "cuda", "fp32"), ("bf16", "cuda", "fp16")],
)
def test_boxes_are_judged_more_finely_than_bf16(name: str, device: str, judged: str) -> None:
    assert Precision(name, device).for_judging == judged
