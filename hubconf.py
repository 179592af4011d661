"""Models for `torch.hub.load`, with the names and arguments of YOLOv5.

Usage:
    model = torch.hub.load("path/to/this/repository", "custom", "best.pt", source="local")
    model = torch.hub.load("path/to/this/repository", "yolov5s", source="local")
    results = model("image.jpg")
"""

# torch.hub lists every callable of this module without an underscore as a model.
import builtins as _builtins
import importlib as _importlib
import sys as _sys
import types as _types
import zlib as _zlib
from collections.abc import Callable as _Callable
from collections.abc import Sequence as _Sequence
from importlib import machinery as _machinery
from importlib.util import module_from_spec as _module_from_spec
from pathlib import Path as _Path
from typing import Any as _Any

dependencies = ["torch", "torchvision", "numpy", "cv2", "PIL", "yaml"]

_ROOT = _Path(__file__).resolve().parent
_PACKAGES = frozenset(path.parent.name for path in _ROOT.glob("*/__init__.py"))
_PRIVATE = f"yolov5_extend_{_zlib.crc32(str(_ROOT).encode()):08x}"
"""Package that contains this repository's packages in the process of a user, who may have other
packages called `models` and `utils`; the number keeps two repositories apart."""
_NAMES = [f"yolov5{size}{levels}" for size in "nsmlx" for levels in ("", "6")]


def custom(
    path: str | _Path | _Sequence[str | _Path] = "path/to/model.pt",
    autoshape: bool = True,
    _verbose: bool = True,
    device: object = None,
) -> _Any:  # noqa: ANN401 -- of a class under a private name
    """Load a model file.

    Args:
        path: `.pt` of this project or of YOLOv5, or an exported model; several are an ensemble.
        autoshape: return a model that accepts images of any kind and size; otherwise the PyTorch
            module of a `.pt` file, for training.
        _verbose: log what is loaded.
        device: GPU index, cpu, mps or a torch.device; None for the first GPU if there is one.

    Returns:
        `utils.inference.model.Model`, or `models.detector.Detector` without `autoshape`.
    """
    load = _own("utils.inference.model").load_model
    return load(path, _device(device, verbose=_verbose), autoshape=autoshape)


def _published(name: str) -> _Callable[..., _Any]:
    def create(
        pretrained: bool = True,
        channels: int = 3,
        classes: int = 80,
        autoshape: bool = True,
        _verbose: bool = True,
        device: object = None,
    ) -> _Any:  # noqa: ANN401
        build = _own("utils.inference.model").build_model
        size = {"channels": channels, "classes": classes}
        chosen = _device(device, verbose=_verbose)
        return build(name, chosen, pretrained=pretrained, autoshape=autoshape, **size)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"""Load the published model {name}, or build one like it.

    Args:
        pretrained: use the published weights, which are downloaded if {name}.pt is not in the
            working folder; with other channels or classes, those that fit.
        channels: number of image channels.
        classes: number of classes.
        autoshape, _verbose, device: as of `custom`.
    """
    return create


globals().update({_name: _published(_name) for _name in _NAMES})


def _device(device: object, *, verbose: bool) -> _Any:  # noqa: ANN401
    """Return the torch.device, and set up the log."""
    script = _own("utils.options.script")
    script.set_up_logging("INFO" if verbose else "WARNING")
    return _own("utils.runtime.device").select_device("" if device is None else str(device))


def _own(name: str) -> _types.ModuleType:
    """Import a module of this repository under a private name.

    A package `utils` or `models` of the user stays what it is, whether it was imported before or
    will be imported later.
    """
    if _PRIVATE not in _sys.modules:
        spec = _machinery.ModuleSpec(_PRIVATE, None, is_package=True)
        spec.submodule_search_locations = [str(_ROOT)]
        _sys.modules[_PRIVATE] = _module_from_spec(spec)
        _sys.meta_path.insert(0, _Finder())
    return _importlib.import_module(f"{_PRIVATE}.{name}")


class _Finder:
    """Finds the modules below the private package."""

    def find_spec(
        self, name: str, path: _Sequence[str] | None = None, target: object = None
    ) -> _machinery.ModuleSpec | None:
        if not name.startswith(f"{_PRIVATE}."):
            return None
        spec = _machinery.PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, _machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(_machinery.SourceFileLoader):
    """Loads a module whose import statements find the private packages."""

    def exec_module(self, module: _types.ModuleType) -> None:
        module.__dict__["__builtins__"] = vars(_builtins) | {"__import__": _import}
        super().exec_module(module)


def _import(name: str, *context: _Any, **more: _Any) -> _types.ModuleType:  # noqa: ANN401
    """Import as the built-in `__import__`, which import statements call."""
    top = name.partition(".")[0]
    if top not in _PACKAGES:
        return _builtins.__import__(name, *context, **more)
    found = _builtins.__import__(f"{_PRIVATE}.{name}", *context, **more)
    # Without a list of names, `import a.b` binds its first part.
    return found if found.__name__ != _PRIVATE else _sys.modules[f"{_PRIVATE}.{top}"]
