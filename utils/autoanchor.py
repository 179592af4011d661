"""AutoAnchor: keeps anchors that match nearly all boxes of the data set, else fits new ones."""

from __future__ import annotations

import logging

import numpy as np

from models.anchors import MIN_SIDE, best_possible_recall, fit_anchors, is_learnable
from models.spec import ModelSpec
from utils.datasets.index import Index
from utils.errors import UserError

log = logging.getLogger("yolo")

GOOD_RECALL = 0.98
"""Fraction of boxes with a matching anchor above which the anchors of the model are kept."""


def box_sizes(index: Index, image_size: int) -> np.ndarray:
    """Width and height in pixels, [n, 2], of all boxes, for images with long side `image_size`."""
    per_image = np.diff(index.offsets)
    scale = image_size / index.sizes.max(axis=1, keepdims=True)
    pixels = np.repeat(index.sizes[:, ::-1] * scale, per_image, axis=0)  # width, height
    sizes: np.ndarray = index.boxes[:, 3:5] * pixels
    return sizes


def with_fitting_anchors(
    spec: ModelSpec, sizes: np.ndarray, *, ratio_limit: float, per_level: int, fit: bool, seed: int
) -> ModelSpec:
    """The model with its anchors, or with fitted ones if these match the data better.

    Args:
        spec: the model.
        sizes: width and height in pixels of the training boxes at the training size, [n, 2].
        ratio_limit: maximum ratio between the sides of a box and of its anchor (hyp `anchor_t`).
        per_level: anchors per level to fit; 0 keeps the number of the model. If it differs from
            that number, the anchors are fitted even if the old ones match.
        fit: whether anchors may be fitted if `per_level` is 0; False with --noautoanchor.
        seed: random seed of the fit.
    """
    usable = int(is_learnable(sizes).sum())
    if usable < len(sizes):
        log.warning(
            "%d of %d boxes have a side below %g pixels at this --imgsz and are too small to learn"
            "; use a larger --imgsz.",
            *(len(sizes) - usable, len(sizes), MIN_SIDE),
        )
    levels = len(spec.anchors)
    anchors = np.array(spec.anchors, dtype=np.float64).reshape(-1, 2)
    requested = (per_level or spec.anchors_to_fit) * levels
    if not fit and not requested:
        return spec
    needed = requested or len(anchors)
    if usable < needed and spec.anchors_to_fit:
        raise UserError(
            f"the model file asks for {needed} anchors, but there are {usable} boxes with sides of "
            f"at least {MIN_SIDE:g} pixels to fit them to; list the anchors in the file."
        )
    if usable < needed:
        log.warning(
            "AutoAnchor: kept the anchors without a check: %d anchors need as many boxes with sides"
            " of at least %g pixels, but there are %d.",
            *(needed, MIN_SIDE, usable),
        )
        return spec
    recall, per_box = best_possible_recall(sizes, anchors, ratio_limit)
    may_keep = requested in (0, len(anchors)) and not spec.anchors_to_fit
    if recall > GOOD_RECALL and may_keep:
        log.info(
            "AutoAnchor: kept the anchors: best possible recall %.4f, %.2f anchors per box.",
            *(recall, per_box),
        )
        return spec
    fitted = fit_anchors(sizes, needed, ratio_limit, seed)
    new_recall, new_per_box = best_possible_recall(sizes, fitted, ratio_limit)
    if new_recall <= recall and may_keep:
        log.info(
            "AutoAnchor: kept the anchors: best possible recall %.4f, %.4f with fitted anchors.",
            *(recall, new_recall),
        )
        return spec
    log.info(
        "AutoAnchor: fitted new anchors: best possible recall %.4f, before %.4f, %.2f anchors per "
        "box: %s",
        *(new_recall, recall, new_per_box),
        np.round(fitted).astype(int).tolist(),
    )
    return spec.with_anchors([level.ravel().tolist() for level in np.split(fitted, levels)])
