"""From a run's configuration to the objects that train it; only here is it unpacked."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from models.anchors import best_possible_recall, fit_anchors
from models.cost import gflops
from models.detector import Detector, Transfer, count_parameters, transfer_weights
from models.loss import DetectionLoss
from models.spec import ModelSpec, load_spec
from utils.checkpoint.format import Config
from utils.checkpoint.loading import Weights, find_weights, read_weights, spec_of
from utils.compilation import compile_forward
from utils.datasets.index import Index
from utils.datasets.shapes import whole_strides
from utils.engine import Rules
from utils.errors import UserError
from utils.options import TrainOptions
from utils.processes import Processes
from utils.run import Run
from utils.runtime import Precision
from utils.solver.ema import ModelEma
from utils.solver.norm_statistics import NormStatistics, share_norms
from utils.solver.param_groups import build_optimizer, parameter_groups
from utils.solver.schedule import Plan
from utils.training_data import TrainingData
from utils.training_state import TrainingState

log = logging.getLogger("yolo")

GOOD_RECALL = 0.98  # of boxes that some anchor can be assigned to; below it new anchors are fitted
SMALLEST_SIDE = 2  # pixels at the training size; smaller boxes tell nothing about anchors


class Start(NamedTuple):
    """What a model is built from."""

    spec: ModelSpec
    weights: Weights | None
    """To be transferred into it; a checkpoint's are restored with the rest of its state."""


def starting_point(run: Run) -> Start:
    """Read what the model is to be built from; cheap, so that a wrong name is told at once.

    Raises:
        UserError: neither --cfg nor --weights says what to build, or a file is refused.
    """
    if run.origin is not None:
        saved = run.origin.checkpoint
        return Start(spec_of(saved["config"]["spec"], saved["model"], run.origin.path), None)
    weights = read_weights(find_weights(run.options.weights)) if run.options.weights else None
    if run.options.cfg:
        return Start(load_spec(Path(run.options.cfg)), weights)
    if weights is None:
        raise UserError(
            "--weights '' starts from scratch: say which model with --cfg, e.g. --cfg yolov5n.yaml."
        )
    return Start(weights.spec, weights)


def build_model(
    run: Run, start: Start, data: TrainingData, device: torch.device, processes: Processes
) -> Detector:
    """The model of a run on its device.

    The anchors of a new model are checked against the data, and fitted to it where need be.

    Raises:
        UserError: the weights do not fit the model at all, there is no such layer to freeze, or the
            model cannot be compiled.
    """
    model = Detector(start.spec) if run.origin else _new_model(run, start, data)
    log.info("%s", describe(model, whole_strides(run.options.imgsz, model.max_stride)))
    _freeze(model, run)
    if run.options.sync_bn and processes.count > 1:
        model = share_norms(model, device)
    model = model.to(device).to(memory_format=torch.channels_last)
    if run.options.compile:
        compile_forward(model, device, any_shape=run.options.multi_scale or run.options.rect)
    return model


def _new_model(run: Run, start: Start, data: TrainingData) -> Detector:
    spec = _with_fitting_anchors(start.spec.with_classes(len(data.names)), run, data.train)
    torch.manual_seed(run.options.seed)
    model = Detector(spec)
    if start.weights is not None:
        # The anchors are the spec's: from the weights file, from --cfg, or fitted to the data.
        transfer = transfer_weights(model, start.weights.state, exclude=("anchors",))
        _report_transfer(transfer, start.weights, run)
    return model


def _report_transfer(transfer: Transfer, weights: Weights, run: Run) -> None:
    if transfer.matched == 0:
        raise UserError(
            f"--weights {weights.origin} has no tensor that fits --cfg {run.options.cfg}."
        )
    log.info("Transferred %d/%d items from %s", transfer.matched, transfer.total, weights.origin)


def describe(model: Detector, image_size: int) -> str:
    """One line: parameters, cost, strides."""
    return (
        f"Model: {count_parameters(model):,} parameters, {gflops(model, image_size):.3g} GFLOPs "
        f"at {image_size} pixels, {model.classes} classes, strides {model.strides}"
    )


def _freeze(model: Detector, run: Run) -> None:
    layers = len(model.model)
    beyond = [layer for layer in run.options.frozen_layers() if layer >= layers]
    if beyond:
        raise UserError(
            f"--freeze names layer {beyond[0]}, but the model's are 0 to {layers - 1}; name fewer."
        )
    prefixes = tuple(f"model.{layer}." for layer in run.options.frozen_layers())
    frozen = [name for name, _ in model.named_parameters() if name.startswith(prefixes)]
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    if frozen:
        log.info(
            "Frozen: %d tensors of the layers %s", len(frozen), list(run.options.frozen_layers())
        )


def box_sizes(index: Index, image_size: int) -> np.ndarray:
    """Width and height in pixels, [n, 2], of every box when images are `image_size` long."""
    per_image = np.diff(index.offsets)
    scale = image_size / index.sizes.max(axis=1, keepdims=True)
    pixels = np.repeat(index.sizes[:, ::-1] * scale, per_image, axis=0)  # width, height
    sizes = index.boxes[:, 3:5] * pixels
    return sizes[(sizes >= SMALLEST_SIDE).all(axis=1)]


def _with_fitting_anchors(spec: ModelSpec, run: Run, index: Index) -> ModelSpec:
    """AutoAnchor: keep anchors that nearly every box can be matched to, else fit new ones."""
    hyp, options = run.hyp, run.options
    sizes = box_sizes(index, options.imgsz)
    levels = len(spec.anchors)
    anchors = np.array(spec.anchors, dtype=np.float64).reshape(-1, 2)
    wanted = round(hyp.anchors) * levels
    if (options.noautoanchor and not wanted) or len(sizes) < max(wanted, len(anchors)):
        return spec
    recall, per_box = best_possible_recall(sizes, anchors, hyp.anchor_t)
    if recall > GOOD_RECALL and wanted in (0, len(anchors)):
        log.info(
            "AutoAnchor: %.2f anchors per box, %.4f best possible recall: good.", per_box, recall
        )
        return spec
    fitted = fit_anchors(sizes, wanted or len(anchors), hyp.anchor_t, options.seed)
    new_recall, new_per_box = best_possible_recall(sizes, fitted, hyp.anchor_t)
    if new_recall <= recall and wanted in (0, len(anchors)):
        log.info("AutoAnchor: recall %.4f; fitted anchors give no more (%.4f).", recall, new_recall)
        return spec
    log.info(
        "AutoAnchor: best possible recall %.4f, with the new anchors %.4f (%.2f per box): %s",
        *(recall, new_recall, new_per_box),
        np.round(fitted).astype(int).tolist(),
    )
    return spec.with_anchors([level.ravel().tolist() for level in np.split(fitted, levels)])


def build_state(
    run: Run, model: Detector, plan: Plan, precision: Precision, processes: Processes
) -> TrainingState:
    """Optimizer, EMA and scaler around the model; restored when the run goes on."""
    options, hyp = run.options, run.hyp
    groups = parameter_groups(model)
    effective_batch = options.batch_size * plan.accumulate
    optimizer = build_optimizer(
        groups,
        options.optimizer,
        lr=plan.lr0,
        momentum=plan.momentum,
        weight_decay=hyp.weight_decay * effective_batch / options.nominal_batch_size,
    )
    state = TrainingState(
        model=model,
        ema=ModelEma(model),
        optimizer=optimizer,
        parameter_names=groups.names,
        scaler=torch.amp.GradScaler(precision.device_type, enabled=precision.needs_scaler),
    )
    if run.origin is not None:
        state.restore(run.origin.checkpoint, processes)
        # Otherwise it is being given more epochs, or more patience.
        state.stopped_early = run.origin.ended and run.origin.checkpoint["stopped_early"]
    return state


def build_rules(
    options: TrainOptions,
    model: Detector,
    plan: Plan,
    loss: DetectionLoss,
    precision: Precision,
    processes: Processes,
) -> Rules:
    """How a run's steps are made, from its options.

    Raises:
        UserError: there are more processes than images in a batch.
    """
    if options.batch_size < processes.count:
        raise UserError(
            f"--batch-size {options.batch_size} is the whole batch, of all {processes.count} "
            "processes; give at least one image to each."
        )
    return Rules(
        plan=plan,
        loss=loss if processes.count == 1 else loss.of_parts(processes.total),
        precision=precision,
        device=next(model.parameters()).device,
        processes=processes,
        statistics=NormStatistics(model),
        seed=options.seed,
        stride=model.max_stride,
        multi_scale=options.multi_scale,
        max_gradient_norm=options.clip_grad_norm,
        max_bad_steps=options.max_bad_steps,
    )


def resolved_config(
    run: Run, model: Detector, data: TrainingData, precision: Precision, processes: Processes
) -> Config:
    """What the checkpoint says about the run."""
    return Config(
        options=run.options.to_dict(),
        hyp=run.hyp.to_dict(),
        spec=model.spec.to_dict(),
        names=list(data.names),
        precision=precision.name,
        processes=processes.count,
        data=data.facts(run.options.data),
    )
