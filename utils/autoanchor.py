"""AutoAnchor: keep the anchors that nearly every box can be matched to, else fit new ones."""

from __future__ import annotations

import logging

import numpy as np

from models.anchors import best_possible_recall, fit_anchors, is_learnable
from models.spec import ModelSpec
from utils.datasets.index import Index

log = logging.getLogger("yolo")

GOOD_RECALL = 0.98
"""Share of boxes that some anchor can be assigned to; below it new anchors are fitted."""


def box_sizes(index: Index, image_size: int) -> np.ndarray:
    """Width and height in pixels, [n, 2], of every box when images are `image_size` long."""
    per_image = np.diff(index.offsets)
    scale = image_size / index.sizes.max(axis=1, keepdims=True)
    pixels = np.repeat(index.sizes[:, ::-1] * scale, per_image, axis=0)  # width, height
    sizes: np.ndarray = index.boxes[:, 3:5] * pixels
    return sizes


def with_fitting_anchors(
    spec: ModelSpec, sizes: np.ndarray, *, ratio_limit: float, per_level: int, fit: bool, seed: int
) -> ModelSpec:
    """The model with its own anchors, or with new ones if these fit the data better.

    Args:
        spec: the model.
        sizes: width and height of the training boxes at the training size, [n, 2], px.
        ratio_limit: a side may differ from the anchor's by less than this factor (hyp `anchor_t`).
        per_level: anchors per level to fit, whatever the old ones are worth; 0: as many as before.
        fit: whether anchors may be fitted when `per_level` is 0; False with --noautoanchor.
        seed: of the fit.
    """
    sizes = sizes[is_learnable(sizes)]
    levels = len(spec.anchors)
    anchors = np.array(spec.anchors, dtype=np.float64).reshape(-1, 2)
    wanted = per_level * levels
    if (not fit and not wanted) or len(sizes) < max(wanted, len(anchors)):
        return spec
    recall, per_box = best_possible_recall(sizes, anchors, ratio_limit)
    if recall > GOOD_RECALL and wanted in (0, len(anchors)):
        log.info(
            "AutoAnchor: %.2f anchors per box, %.4f best possible recall: good.", per_box, recall
        )
        return spec
    fitted = fit_anchors(sizes, wanted or len(anchors), ratio_limit, seed)
    new_recall, new_per_box = best_possible_recall(sizes, fitted, ratio_limit)
    if new_recall <= recall and wanted in (0, len(anchors)):
        log.info("AutoAnchor: recall %.4f; fitted anchors give no more (%.4f).", recall, new_recall)
        return spec
    log.info(
        "AutoAnchor: best possible recall %.4f, with the new anchors %.4f (%.2f per box): %s",
        *(recall, new_recall, new_per_box),
        np.round(fitted).astype(int).tolist(),
    )
    return spec.with_anchors([level.ravel().tolist() for level in np.split(fitted, levels)])
