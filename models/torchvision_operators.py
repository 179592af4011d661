"""Non-maximum suppression by torchvision's compiled operator, without torchvision's Python package.

The package imports all of its models, data sets and transforms, and torch's compiler with them:
two seconds, for one function that is registered with torch by a shared library.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from importlib.util import find_spec

import torch
from torch import Tensor

LIBRARIES = ("_C_stable", "_C")
"""In which the operators are, the newest name first."""


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Drop each box that overlaps a better one.

    Args:
        boxes: ``[n, 4]``, corners.
        scores: ``[n]``.
        iou_threshold: a larger IoU is an overlap.

    Returns:
        Indices ``[k]`` of the boxes that stay, best first.
    """
    _load_operators()
    kept: Tensor = torch.ops.torchvision.nms(boxes, scores, iou_threshold)
    return kept


@lru_cache(maxsize=1)
def _load_operators() -> None:
    """Register torchvision's operators; the package may be imported before or after."""
    try:
        torch.ops.load_library(_library())
    except (ImportError, OSError):  # not where it is expected, or it needs others to be loaded
        import_module("torchvision")
    if not hasattr(torch.ops.torchvision, "nms"):  # it was the library of other operators
        import_module("torchvision")


def _library() -> str:
    """The path of the library.

    Raises:
        ImportError: there is none.
    """
    package = find_spec("torchvision")
    for folder in (package and package.submodule_search_locations) or ():
        finder = FileFinder(folder, (ExtensionFileLoader, EXTENSION_SUFFIXES))
        for name in LIBRARIES:
            found = finder.find_spec(name)
            if found is not None and found.origin is not None:
                return found.origin
    raise ImportError("torchvision's operators are not beside its __init__.py")
