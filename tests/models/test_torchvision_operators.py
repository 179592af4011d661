import re
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path

import pytest
import torch

from models import torchvision_operators
from models.torchvision_operators import check_nms, nms
from tests.paths import ROOT
from utils.errors import UserError

BOXES = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 3.0], [5.0, 5.0, 6.0, 6.0]])
SCORES = torch.tensor([0.5, 0.75, 0.25])

WITHOUT_AND_WITH = """
import sys, torch
from models.torchvision_operators import nms
boxes, scores = torch.rand(2, 20, 4).cumsum(0)[1] + torch.tensor([0, 0, 2, 2]), torch.rand(20)
before = nms(boxes, scores, 0.5)
assert not {name for name in sys.modules if name.partition(".")[0] in ("torchvision", "sympy")}
import torchvision
assert torchvision.ops.nms(boxes, scores, 0.5).tolist() == before.tolist()
assert nms(boxes, scores, 0.5).tolist() == before.tolist()
"""


def test_best_of_overlapping_boxes_is_kept() -> None:
    assert nms(BOXES, SCORES, 0.5).tolist() == [1, 2]
    assert nms(BOXES, SCORES, 0.7).tolist() == [1, 0, 2]  # the IoU is 2/3


def test_package_is_not_imported_and_stays_usable() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_AND_WITH],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def package_in(folder: Path, *libraries: str) -> ModuleSpec:
    """Return the module spec of a torchvision package with these libraries."""
    for name in libraries:
        (folder / (name + EXTENSION_SUFFIXES[-1])).touch()
    spec = ModuleSpec("torchvision", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return spec


@pytest.mark.parametrize(
    ("libraries", "expected"),
    [
        (("_C", "image"), "_C"),
        (("_C_stable", "image_stable"), "_C_stable"),
        (("_C", "_C_stable"), "_C_stable"),
    ],
)
def test_library_of_older_and_newer_versions_is_found(
    libraries: tuple[str, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = package_in(tmp_path, *libraries)
    monkeypatch.setattr(torchvision_operators, "find_spec", lambda name: spec)
    assert Path(torchvision_operators._library()).name == expected + EXTENSION_SUFFIXES[-1]


def test_missing_library_raises_import_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = package_in(tmp_path, "image")
    monkeypatch.setattr(torchvision_operators, "find_spec", lambda name: spec)
    with pytest.raises(ImportError, match="not in its package folder"):
        torchvision_operators._library()


@pytest.mark.parametrize("reason", [ImportError, OSError], ids=["missing", "not loadable"])
def test_package_is_imported_if_the_library_cannot_be_loaded(
    reason: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    imported: list[str] = []

    def fail() -> str:
        raise reason

    monkeypatch.setattr(torchvision_operators, "_library", fail)
    monkeypatch.setattr(torchvision_operators, "import_module", imported.append)
    torchvision_operators._load_operators.__wrapped__()
    assert imported == ["torchvision"]


@pytest.mark.parametrize(
    "error",
    [
        ImportError("No module named 'torchvision'"),
        RuntimeError("operator torchvision::nms does not exist"),
        AttributeError("'_OpNamespace' 'torchvision' object has no attribute 'nms'"),
        NotImplementedError("Could not run 'torchvision::nms' with arguments\nfrom the backend"),
    ],
)
def test_missing_operator_is_a_user_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_nms()

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(torchvision_operators, "nms", fail)
    reason = re.escape(str(error).splitlines()[0])
    with pytest.raises(UserError, match=rf"NMS does not work \({reason}\); install the version"):
        check_nms()
