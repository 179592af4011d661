"""Writes weights as a file that YOLOv5 v6.0 and later, and programs that read its files, load.

Such a file is a pickle of YOLOv5's modules. Here, no class of YOLOv5 is needed to write it: the
pickle refers to the classes by their names, and `LAYERS` lists the attributes that each one has.
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from models.detector import Detector, count_parameters
from models.head import BOX_FIELDS, DetectionHead
from models.layers import C3, SPP, SPPF, Activation, Bottleneck, Concat, Conv, Focus
from utils.checkpoint.pickle_records import GlobalName, PickleRecord
from utils.checkpoint.store import write_torch_file
from utils.errors import UserError
from utils.files.atomic_write import atomic_write

PROTOCOL = 2  # of all files that YOLOv5 writes
MODEL_CLASS = "models.yolo.Model"
"""The only name of the model class that v6.0 and all later versions have."""
FORWARD_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks"),
    *("_state_dict_hooks", "_load_state_dict_pre_hooks"),
)
"""Empty dictionaries of every `nn.Module` since torch 1.8; newer versions add theirs on loading."""


class LayerClass(NamedTuple):
    """A class in a YOLOv5 file."""

    name: str
    """Its dotted name there."""
    attributes: tuple[str, ...] = ()
    """Attributes that our module has under the same name."""


LAYERS: dict[type[nn.Module], LayerClass] = {
    nn.Conv2d: LayerClass(
        "torch.nn.modules.conv.Conv2d",
        (
            *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"),
            *("transposed", "output_padding", "groups", "padding_mode"),
            "_reversed_padding_repeated_twice",
        ),
    ),
    nn.BatchNorm2d: LayerClass(
        "torch.nn.modules.batchnorm.BatchNorm2d",
        ("num_features", "eps", "momentum", "affine", "track_running_stats"),
    ),
    Activation: LayerClass("torch.nn.modules.activation.SiLU"),
    nn.MaxPool2d: LayerClass(
        "torch.nn.modules.pooling.MaxPool2d",
        ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode"),
    ),
    # torch 1.11 and later read `recompute_scale_factor`, and YOLOv5 v6.0 does not add it.
    nn.Upsample: LayerClass(
        "torch.nn.modules.upsampling.Upsample",
        ("name", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor"),
    ),
    nn.Sequential: LayerClass("torch.nn.modules.container.Sequential"),
    nn.ModuleList: LayerClass("torch.nn.modules.container.ModuleList"),
    Conv: LayerClass("models.common.Conv"),
    Bottleneck: LayerClass("models.common.Bottleneck", ("add",)),
    C3: LayerClass("models.common.C3"),
    SPP: LayerClass("models.common.SPP"),
    SPPF: LayerClass("models.common.SPPF"),
    Focus: LayerClass("models.common.Focus"),
    Concat: LayerClass("models.common.Concat"),
    DetectionHead: LayerClass("models.yolo.Detect"),
}


class TrainingFacts(NamedTuple):
    """What a file also says about the training of its weights."""

    options: Mapping[str, object]
    """Training options; at least `imgsz` and `batch_size`."""
    hyp: Mapping[str, float]
    """Hyper-parameters; empty if unknown."""
    fitness: float | None = None
    """0.1 mAP50 + 0.9 mAP50-95; None, NaN or -inf if it was not measured."""


def upstream_path(weights: Path) -> Path:
    """Return the YOLOv5 file of a weights file, beside it: best_yolov5.pt."""
    return weights.with_name(f"{weights.stem}_yolov5.pt")


def check_layers(model: Detector) -> None:
    """Check that a YOLOv5 file can describe all layers of a model.

    Raises:
        UserError: it has a layer or an activation that `LAYERS` does not list.
    """
    unknown = {type(part).__name__ for part in model.modules()}
    unknown -= {kind.__name__ for kind in (*LAYERS, Detector)}
    if unknown:
        raise UserError(
            f"the YOLOv5 file cannot contain {', '.join(sorted(unknown))} of this model; export it "
            "to another format, such as onnx."
        )


def write_upstream(
    path: Path, model: Detector, names: Sequence[str], training: TrainingFacts
) -> None:
    """Write a model as a YOLOv5 file, atomically, in fp16.

    Args:
        path: the file.
        model: the model, not fused; on any device.
        names: class names.
        training: facts about the training.

    Raises:
        UserError: the file cannot be written, or cannot describe the model.
    """
    check_layers(model)
    fitness = training.fitness
    measured = fitness is not None and math.isfinite(fitness)
    content = {
        "epoch": -1,  # and no optimizer: a finished training, as YOLOv5 leaves it
        "best_fitness": fitness if measured else None,
        "model": _model_record(model, names, training.hyp),
        **dict.fromkeys(("ema", "updates", "optimizer")),
        "opt": dict(training.options),
        "git": None,
        "date": datetime.now().isoformat(),
    }
    settings = {"pickle_module": RecordPickle, "pickle_protocol": PROTOCOL}
    atomic_write(path, lambda part: write_torch_file(content, part, **settings))


def _model_record(model: Detector, names: Sequence[str], hyp: Mapping[str, float]) -> PickleRecord:
    layers = {
        str(number): _layer_record(model, number, layer) for number, layer in enumerate(model.model)
    }
    kept = {
        number + source if source < 0 else source
        for number, row in enumerate(model.spec.layers)
        for source in row.sources
        if source != -1
    }
    own = {
        "yaml": model.spec.to_dict() | {"ch": model.channels},
        "save": sorted(kept),
        "names": list(names),
        "inplace": True,
        "stride": torch.tensor(model.strides, dtype=torch.float32),
        "nc": model.classes,
        "hyp": dict(hyp),
    }
    return _record(MODEL_CLASS, {"model": _record(LAYERS[nn.Sequential].name, layers, {})}, own)


def _layer_record(model: Detector, number: int, layer: nn.Module) -> PickleRecord:
    """Return a layer of the model file, which also has its number, sources and size."""
    record = _module_record(layer)
    sources = model.spec.layers[number].sources
    record.state |= {
        "i": number,
        "f": sources[0] if len(sources) == 1 else list(sources),
        "type": record.kind,
        "np": count_parameters(layer),
    }
    if isinstance(layer, DetectionHead):  # the last attribute, as in YOLOv5's files
        record.state["stride"] = torch.tensor(layer.strides, dtype=torch.float16)
    return record


def _module_record(module: nn.Module) -> PickleRecord:
    described = LAYERS[type(module)]
    own = {name: getattr(module, name) for name in described.attributes}
    if isinstance(module, Activation):
        own["inplace"] = True
    elif isinstance(module, Concat):
        own["d"] = module.dimension
    elif isinstance(module, DetectionHead):
        levels = len(module.strides)
        own |= {
            "nc": module.classes,
            "no": BOX_FIELDS + module.classes,
            "nl": levels,
            "na": module.anchors_per_level,
            # YOLOv5 computes both for the size of an image when it sees one.
            "grid": [torch.zeros(1, dtype=torch.float16) for _ in range(levels)],
            "anchor_grid": [torch.zeros(1, dtype=torch.float16) for _ in range(levels)],
            "inplace": True,
        }
    children = {name: _module_record(child) for name, child in module.named_children()}
    return _record(described.name, children, own, module)


def _record(
    kind: str,
    children: Mapping[str, PickleRecord],
    own: Mapping[str, object],
    module: nn.Module | None = None,
) -> PickleRecord:
    """Return a module with the attributes that all have, in the order of torch, then its own."""
    parameters = {} if module is None else module._parameters
    buffers = {} if module is None else module._buffers
    state: dict[str, object] = {
        "training": False,
        "_parameters": OrderedDict(
            (name, None if one is None else nn.Parameter(_half(one), requires_grad=False))
            for name, one in parameters.items()
        ),
        "_buffers": OrderedDict((n, _half(one)) for n, one in buffers.items() if one is not None),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_is_full_backward_hook": None,
        **{name: OrderedDict() for name in FORWARD_HOOKS},
        "_modules": OrderedDict(children),
        **own,
    }
    return PickleRecord(kind, (), state)


def _half(tensor: Tensor) -> Tensor:
    """Return a contiguous copy on the CPU; in fp16 if it has floating-point numbers."""
    dtype = torch.float16 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", dtype, copy=True).contiguous()


@cache
def _global_name(qualified: str) -> GlobalName:
    """Return one object for each name, so that the pickle contains the name once."""
    return GlobalName(qualified)


_Pickler: Any = pickle._Pickler
"""Python's pickler in Python; the one in C imports every class that it names."""


class _RecordPickler(_Pickler):
    """Pickles `GlobalName` as a reference to a class, and `PickleRecord` as one of its objects."""

    dispatch: ClassVar[dict[type, Any]] = dict(_Pickler.dispatch)

    def _save_name(self, name: GlobalName) -> None:
        module, _, attribute = name.qualified.rpartition(".")
        self.write(pickle.GLOBAL + f"{module}\n{attribute}\n".encode())
        self.memoize(name)

    def _save_record(self, record: PickleRecord) -> None:
        self.save(_global_name(record.kind))
        self.save(record.arguments)
        self.write(pickle.NEWOBJ)
        self.memoize(record)
        self.save(record.state)
        self.write(pickle.BUILD)

    dispatch[GlobalName] = _save_name
    dispatch[PickleRecord] = _save_record


class RecordPickle:
    """The `pickle_module` for `torch.save`."""

    Pickler = _RecordPickler
