from dataclasses import replace

import numpy as np
import pytest
import torch

from models.detector import Detector
from models.spec import load_spec
from tests.paths import SHARED, SHARED_GOLDENS, requires_shared
from tests.utils.inference.test_backend import CPU, Fake
from utils.errors import UserError
from utils.inference.augmented import AugmentedBackend, augmented, resize_and_pad
from utils.inference.backend import Ensemble, TorchBackend, open_backend


def tiny(model_file: str) -> TorchBackend:
    torch.manual_seed(0)
    spec = replace(load_spec(model_file), width_multiple=0.01, classes=1)
    return TorchBackend(Detector(spec).eval(), ("cell",), "tiny.pt")


@requires_shared
def test_the_boxes_are_those_of_the_original() -> None:
    golden = np.load(SHARED_GOLDENS / "tta_yolov5n.npz")
    image, expected = torch.from_numpy(golden["image"]), golden["pred"]
    backend = open_backend(SHARED / "weights" / "yolov5n.pt", CPU, augment=True)
    with torch.no_grad():
        found = backend(image, -1)
        confident = backend(image, 0.01)
    assert np.abs(torch.stack(found).numpy() - expected).max() < 1e-3  # px
    for boxes, few in zip(found, confident, strict=True):
        scores = boxes[:, 4] * boxes[:, 5:].amax(1)
        assert 0 < len(few) < len(boxes)
        torch.testing.assert_close(few, boxes[scores > 0.01])


@pytest.mark.parametrize(
    ("model_file", "stride", "levels"), [("yolov5n.yaml", 32, 3), ("yolov5n6.yaml", 64, 4)]
)
def test_levels_that_do_not_count(model_file: str, stride: int, levels: int) -> None:
    """n // g boxes of the whole image and (n // g) * 4^(levels - 1) of the smallest copy."""

    def boxes(height: int, width: int) -> int:
        sides = [stride >> level for level in range(levels)]
        return sum(3 * (height // side) * (width // side) for side in sides)

    images = torch.rand(1, 3, 192, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = augmented(tiny(model_file))(images, -1)
    whole = boxes(192, 256)
    mirrored = boxes(192, 256)  # 0.83: 159.4 x 212.5, padded
    small = boxes(192, 192)  # 0.67: 128.6 x 171.5; 128.6 needs five strides of 32 or three of 64
    if stride == 32:
        mirrored, small = boxes(160, 224), boxes(160, 192)
    groups = sum(4**level for level in range(levels))
    expected = whole - whole // groups + mirrored + small - small // groups * 4 ** (levels - 1)
    assert found[0].shape == (expected, 6)


def test_a_model_with_one_level_uses_the_mirrored_copy() -> None:
    """The formula leaves no box of the other passes."""
    spec = replace(load_spec("yolov5n.yaml"), width_multiple=0.01, classes=1)
    *rest, head = spec.layers
    one = replace(head, sources=head.sources[2:])
    model = Detector(replace(spec, layers=(*rest, one), anchors=spec.anchors[2:])).eval()
    backend = AugmentedBackend(model, ("cell",), "one.pt")
    with torch.no_grad():
        assert backend(torch.rand(1, 3, 64, 64), -1)[0].shape == (3 * 2 * 2, 6)  # 53.12 px, padded


def test_copies_are_padded_right_and_below() -> None:
    images = torch.full((2, 3, 96, 128), 0.8)
    assert resize_and_pad(images, 1.0, 32) is images
    copies = resize_and_pad(images, 0.67, 32)
    assert copies.shape == (2, 3, 96, 96)  # of 64.32 x 85.76
    assert copies[:, :, :64, :85].sub(0.8).abs().max() < 1e-6
    assert (copies[:, :, 64:] == 0.447).all()
    assert (copies[:, :, :, 85:] == 0.447).all()


def test_every_model_of_an_ensemble_is_augmented() -> None:
    one = tiny("yolov5n.yaml")
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        (alone,) = augmented(one)(images, -1)
        (both,) = augmented(Ensemble([one, one]))(images, -1)
    assert torch.equal(both, torch.cat((alone, alone)))


def test_an_exported_model_has_no_augmentation() -> None:
    for backend in (Fake(), Ensemble([tiny("yolov5n.yaml"), Fake(names=("cell",))])):
        with pytest.raises(UserError, match=r"0\.5\.onnx is an exported model.*or no augmentation"):
            augmented(backend)
