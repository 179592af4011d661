"""Builds the objects that train a run from its configuration."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from models.cost import gflops
from models.detector import Detector, count_parameters, transfer_weights
from models.loss import DetectionLoss
from models.spec import ModelSpec, load_spec
from utils.autoanchor import box_sizes, with_fitting_anchors
from utils.checkpoint.format import Config
from utils.datasets.rect_batches import round_up_to_stride
from utils.errors import UserError
from utils.files.yaml_file import read_yaml, write_yaml
from utils.options.option import OnResume, option_names
from utils.options.train_options import TrainOptions
from utils.runs.run import Run
from utils.runtime.device import Precision, compile_forward
from utils.runtime.distributed import Distributed
from utils.runtime.signals import SignalHandler
from utils.solver.ema import ModelEma
from utils.solver.param_groups import build_optimizer, parameter_groups
from utils.solver.schedule import Plan, scaled_weight_decay
from utils.training.batch_norm import BatchNormStats, convert_sync_batchnorm
from utils.training.class_rows import with_classes
from utils.training.data import TrainingData
from utils.training.engine import TrainContext
from utils.training.state import TrainingState
from utils.upstream.writer import check_layers
from utils.weights import Weights, find_weights, read_weights, spec_from_checkpoint

log = logging.getLogger("yolo")


class ModelSource(NamedTuple):
    """The specification of a model and its initial weights."""

    spec: ModelSpec
    weights: Weights | None
    """Initial weights; None if there are none, or if they are restored from a checkpoint."""


def load_model_source(run: Run) -> ModelSource:
    """Read the model specification and the initial weights of a run.

    This takes little time, so a wrong file name is reported at once.

    Raises:
        UserError: if neither --cfg nor --weights is given, or a file is invalid.
    """
    if run.resume_point is not None:
        saved = run.resume_point.checkpoint
        spec = spec_from_checkpoint(saved["config"]["spec"], saved["model"], run.resume_point.path)
        return ModelSource(spec.with_classes(len(run.classes.new)) if run.classes else spec, None)
    weights = read_weights(find_weights(run.options.weights)) if run.options.weights else None
    if run.options.cfg:
        return ModelSource(load_spec(Path(run.options.cfg)), weights)
    if weights is None:
        raise UserError(
            "--weights '' needs a model to train from scratch; add --cfg, e.g. --cfg yolov5n.yaml."
        )
    return ModelSource(weights.spec, weights)


def build_model(
    run: Run,
    source: ModelSource,
    data: TrainingData,
    device: torch.device,
    distributed: Distributed,
) -> Detector:
    """Build the model of a run on its device.

    AutoAnchor checks the anchors of a new model against the data.

    Raises:
        UserError: if no tensor of the weights fits the model, a layer to freeze does not exist, or
            the model cannot be compiled.
    """
    if run.resume_point:
        torch.manual_seed(run.options.seed)  # for the head rows of new classes
        model = Detector(source.spec)
    else:
        model = _new_model(run, source, data, distributed)
    image_size = round_up_to_stride(run.options.imgsz, model.max_stride)
    log.info(
        f"Model: {count_parameters(model):,} parameters, {gflops(model, image_size):.3g} GFLOPs "
        f"at {image_size} pixels, {model.classes} classes, strides {model.strides}"
    )
    if run.options.export_yolov5:
        check_layers(model)  # now, and not after the last epoch
    _freeze(model, run)
    if run.options.sync_bn and distributed.world_size > 1:
        model = convert_sync_batchnorm(model)
    model = model.to(device)
    distributed.broadcast_tensors(model.state_dict().values())
    model = model.to(memory_format=torch.channels_last)
    if run.options.compile:
        compile_forward(model, device, dynamic=run.options.multi_scale or run.options.rect)
    return model


def _new_model(
    run: Run, source: ModelSource, data: TrainingData, distributed: Distributed
) -> Detector:
    spec = source.spec.with_classes(len(data.names))
    if distributed.is_main:
        spec = with_fitting_anchors(
            spec,
            box_sizes(data.train, run.options.imgsz),
            ratio_limit=run.hyp.anchor_t,
            per_level=round(run.hyp.anchors),
            fit=not run.options.noautoanchor,
            seed=run.options.seed,
        )
    spec = _with_anchors_by_stride(distributed.broadcast(spec))
    torch.manual_seed(run.options.seed)
    model = Detector(spec)
    if source.weights is not None:
        # The anchors are in the spec: from the weights file, from --cfg, or fitted to the data.
        transfer = transfer_weights(model, source.weights.state, exclude=("anchors",))
        origin = source.weights.origin
        if transfer.matched == 0:
            raise UserError(
                f"--weights {origin} has no tensor that fits --cfg {run.options.cfg}; use matching "
                "files."
            )
        log.info("Transferred %d/%d tensors from %s", transfer.matched, transfer.total, origin)
    return model


def _with_anchors_by_stride(spec: ModelSpec) -> ModelSpec:
    """Return the model with its rows of anchors reversed if they fall where the strides rise."""
    with torch.device("meta"):
        strides = Detector(spec).strides
    areas = [sum(np.prod(np.reshape(row, (-1, 2)), axis=1)) for row in spec.anchors]
    if (areas[-1] - areas[0]) * (strides[-1] - strides[0]) >= 0:
        return spec
    log.warning(
        "The levels of Detect have the strides %s: the anchors are used in reverse order.", strides
    )
    return spec.with_anchors(spec.anchors[::-1])


def _freeze(model: Detector, run: Run) -> None:
    layers, frozen = len(model.model), run.options.frozen_layers()
    if max(frozen, default=0) >= layers:
        given = " ".join(map(str, run.options.freeze))
        raise UserError(
            f"--freeze {given}: the model has {layers} layers, 0 to {layers - 1}; choose other "
            "layers."
        )
    parameters = [p for layer in frozen for p in model.model[layer].parameters()]
    for parameter in parameters:
        parameter.requires_grad_(False)
    if parameters:
        model.held = tuple(frozen) if run.options.freeze_bn else ()
        log.info(
            "Froze %d tensors of the layers %s; their batch-norm statistics %s.",
            *(len(parameters), list(frozen)),
            "stay" if run.options.freeze_bn else "move, as in YOLOv5; hold them with --freeze-bn",
        )


def build_state(
    run: Run, model: Detector, plan: Plan, precision: Precision, distributed: Distributed
) -> TrainingState:
    """Create the optimizer, EMA and gradient scaler of a model; restores them for a resumed run."""
    options = run.options
    groups = parameter_groups(model)
    effective_batch = options.batch_size * plan.accumulate
    optimizer = build_optimizer(
        groups,
        options.optimizer,
        lr=plan.lr0,
        momentum=plan.momentum,
        weight_decay=scaled_weight_decay(
            run.hyp.weight_decay, effective_batch, options.nominal_batch_size
        ),
    )
    state = TrainingState(
        model=model,
        ema=ModelEma(model),
        optimizer=optimizer,
        parameter_names=groups.names,
        scaler=torch.amp.GradScaler(precision.device_type, enabled=precision.needs_scaler),
    )
    if run.resume_point is not None:
        point = run.resume_point
        saved = (
            with_classes(point.checkpoint, run.classes, model) if run.classes else point.checkpoint
        )
        keep = plan.averaged(options.average, point.completed) > 0
        state.restore(saved, distributed, ended=point.ended, keep_average=keep)
    return state


def build_context(
    options: TrainOptions,
    model: Detector,
    plan: Plan,
    loss: DetectionLoss,
    precision: Precision,
    interrupts: SignalHandler,
) -> TrainContext:
    """Build the settings of the training step from the options of a run.

    Raises:
        UserError: if there are more processes than images in a batch.
    """
    distributed = interrupts.distributed
    if options.batch_size < distributed.world_size:
        raise UserError(
            f"--batch-size {options.batch_size}: must be at least {distributed.world_size}, one "
            "image per process."
        )
    if distributed.world_size > 1:
        loss = loss.for_partial_batches(distributed.all_reduce_sum)
    return TrainContext(
        plan=plan,
        loss=loss,
        precision=precision,
        device=next(model.parameters()).device,
        distributed=distributed,
        statistics=BatchNormStats(model),
        seed=options.seed,
        stride=model.max_stride,
        multi_scale=options.multi_scale,
        fixed_shapes=not (options.multi_scale or options.rect),
        max_gradient_norm=options.clip_grad_norm,
        max_bad_steps=options.max_bad_steps,
        votes=interrupts.votes,
        average=options.average,
    )


def resolved_config(
    run: Run,
    model: Detector,
    names: Sequence[str],
    data: dict[str, str | int],
    precision: Precision,
    distributed: Distributed,
) -> Config:
    """The configuration of a run, as saved in its checkpoints; `data` is a fingerprint."""
    config = Config(
        options=run.options.to_dict(),
        hyp=run.hyp.to_dict(),
        spec=model.spec.to_dict(),
        names=list(names),
        precision=precision.name,
        processes=distributed.world_size,
        data=data,
    )
    if run.mosaic_batches is not None:
        config["mosaic_batches"] = run.mosaic_batches
    return config


def write_config(
    config: Config, plan: Plan, run: Run, folder: Path, distributed: Distributed
) -> None:
    """Write opt.yaml and hyp.yaml in the main process, for people to read; report edited ones."""
    if not distributed.is_main:
        return
    point = run.resume_point
    if run.folder is not None and point is not None and not point.replaces:
        saved = point.checkpoint["config"]
        fixed = option_names(TrainOptions, OnResume.FIXED, OnResume.ALLOWABLE)
        _report_edits(folder / "opt.yaml", {name: saved["options"].get(name) for name in fixed})
        _report_edits(folder / "hyp.yaml", saved["hyp"])
    write_yaml({**config["options"], "planned_epochs": plan.total_epochs}, folder / "opt.yaml")
    write_yaml(config["hyp"], folder / "hyp.yaml")


def _report_edits(file: Path, saved: Mapping[str, object]) -> None:
    """Warn that a file for people differs from the checkpoint, from which a run is resumed."""
    try:
        found = read_yaml(file)
    except UserError:
        return  # missing or damaged; it is written again
    names = [n for n in saved if isinstance(found, dict) and n in found and found[n] != saved[n]]
    if names:
        log.warning(
            "%s differs from the checkpoint in %s; the values of the checkpoint are used, and the "
            "file is written again. Change values with options and --allow-change, and the number "
            "of epochs with --extend-epochs.",
            *(file, ", ".join(names)),
        )
