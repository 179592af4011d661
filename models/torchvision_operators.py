"""Loads torchvision's compiled NMS operator without importing its Python package.

Importing the package takes two seconds, because it imports all models, data sets and transforms,
and torch's compiler. The operator itself is registered with torch by a shared library.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from importlib.util import find_spec

import torch
from torch import Tensor

from utils.errors import UserError

LIBRARIES = ("_C_stable", "_C")
"""Names of the library with the operators, newest first."""


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Return the boxes that are kept by non-maximum suppression.

    Args:
        boxes: ``[n, 4]``, corners.
        scores: ``[n]``.
        iou_threshold: a box is dropped if its IoU with a better box is higher.

    Returns:
        Indices ``[k]`` of the kept boxes, best first.
    """
    _load_operators()
    kept: Tensor = torch.ops.torchvision.nms(boxes, scores, iou_threshold)
    return kept


def check_nms() -> None:
    """Call `nms` once, so that a program reports a missing operator before it has trained for long.

    Suppression runs on the CPU, so a torchvision without CUDA is enough for a GPU.

    Raises:
        UserError: the operator is missing or does not fit this version of torch.
    """
    try:
        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"torchvision's NMS does not work ({reason}); install the version of torchvision that "
            f"belongs to torch {torch.__version__}, see https://pytorch.org/get-started."
        ) from error


@lru_cache(maxsize=1)
def _load_operators() -> None:
    """Register torchvision's operators; the package may be imported earlier or later."""
    try:
        torch.ops.load_library(_library())
    except (ImportError, OSError):  # not found, or it depends on other libraries
        import_module("torchvision")
    if not hasattr(torch.ops.torchvision, "nms"):  # the library has other operators
        import_module("torchvision")


def _library() -> str:
    """Return the path of the library.

    Raises:
        ImportError: it was not found.
    """
    package = find_spec("torchvision")
    for folder in (package and package.submodule_search_locations) or ():
        finder = FileFinder(folder, (ExtensionFileLoader, EXTENSION_SUFFIXES))
        for name in LIBRARIES:
            found = finder.find_spec(name)
            if found is not None and found.origin is not None:
                return found.origin
    raise ImportError("torchvision's operators are not in its package folder")
