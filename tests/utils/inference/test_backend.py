import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.detector import fuse
from tests.paths import SHARED, requires_shared
from tests.toy import make_toy_weights
from utils.errors import UserError
from utils.inference.backend import Ensemble, TorchBackend, network_size, open_backend
from utils.weights import load_model

CPU = torch.device("cpu")
WEIGHTS = SHARED / "weights" / "yolov5n.pt"


class Fake:
    """A backend that finds one box, of its own score, in every image."""

    device, dtype, batch = CPU, torch.float32, None

    def __init__(
        self,
        score: float = 0.5,
        names: tuple[str, ...] = ("cat", "dog"),
        stride: int = 32,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.score, self.names, self.max_stride, self.input_size = score, names, stride, size
        self.origin = f"{score}.onnx"

    def __call__(self, images: Tensor, threshold: float) -> list[Tensor]:
        return [torch.full((1, 7), self.score) for _ in images]


@requires_shared
def test_a_weights_file_runs_as_its_fused_model() -> None:
    backend = open_backend(WEIGHTS, CPU)
    assert isinstance(backend, TorchBackend)
    assert (len(backend.names), backend.names[0], backend.origin) == (80, "person", str(WEIGHTS))
    assert (backend.max_stride, backend.input_size, backend.batch) == (32, None, None)
    assert (backend.device, backend.dtype) == (CPU, torch.float32)
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    model = fuse(load_model(WEIGHTS, CPU).model)
    with torch.no_grad():
        found, expected = backend(images, 0.001), model.decode_confident(model(images), 0.001)
    for one, other in zip(found, expected, strict=True):
        assert len(one) > 10
        assert torch.equal(one, other)


@requires_shared
def test_half_computes_in_fp16() -> None:
    backend = open_backend(WEIGHTS, CPU, half=True)
    assert backend.dtype == torch.float16
    with torch.no_grad():
        (found,) = backend(torch.rand(1, 3, 64, 64), -1)
    assert found.dtype == torch.float32
    assert isinstance(backend, TorchBackend)
    assert backend.model.head.anchors.dtype == torch.float32  # exact in any precision


def test_an_ensemble_joins_the_boxes_of_its_models() -> None:
    ensemble = Ensemble([Fake(0.5), Fake(0.7, stride=64), Fake(0.2, size=(128, 192))])
    assert (ensemble.names, ensemble.max_stride) == (("cat", "dog"), 64)
    assert (ensemble.input_size, ensemble.batch) == ((128, 192), None)
    assert (ensemble.device, ensemble.dtype) == (CPU, torch.float32)
    found = ensemble(torch.zeros(2, 3, 128, 192), 0.1)
    assert [boxes[:, 4].tolist() for boxes in found] == [pytest.approx([0.5, 0.7, 0.2])] * 2


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (Fake(0.7, names=("dog", "cat")), r"0\.7\.onnx does not detect the classes of 0\.5\.onnx"),
        (Fake(0.7, names=("cat",)), "trained on the same classes"),
        (Fake(0.7, size=(96, 64)), r"0\.5\.onnx, 0\.7\.onnx accept no common image size"),
        (Fake(0.7, stride=64), "the same --imgsz, a multiple of 64"),
    ],
)
def test_models_that_do_not_match_are_no_ensemble(other: Fake, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Ensemble([Fake(size=(96, 96)), other])


def test_several_files_are_an_ensemble(tmp_path: Path) -> None:
    path = make_toy_weights(tmp_path)
    ensemble = open_backend([path, str(path)], CPU)
    assert isinstance(ensemble, Ensemble)
    assert (ensemble.names, ensemble.origin) == (("green", "red"), f"{path}, {path}")
    assert type(open_backend([path], CPU)) is TorchBackend
    with pytest.raises(UserError, match=r"absent\.pt does not exist"):
        open_backend([path, tmp_path / "absent.pt"], CPU)


@pytest.mark.parametrize(
    ("sizes", "size", "expected", "warnings"),
    [
        ([640], None, (640, 640), []),
        (
            [480, 641],
            None,
            (480, 672),
            ["--imgsz 480 641 is not a multiple of the stride 32; using 480 x 672."],
        ),
        ([1], None, (32, 32), ["--imgsz 1 is not a multiple of the stride 32; using 32 x 32."]),
        ([320, 640], (320, 640), (320, 640), []),
        (
            [640],
            (320, 640),
            (320, 640),
            ["0.5.onnx accepts only one image size; using 320 x 640."],
        ),
    ],
)
def test_network_size(
    sizes: list[int],
    size: tuple[int, int] | None,
    expected: tuple[int, int],
    warnings: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "yolo"):
        assert network_size(sizes, Fake(size=size)) == expected
    assert caplog.messages == warnings
