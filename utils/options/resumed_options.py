"""The options of a resumed run: those of the run, and those that the command line may change."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from utils.errors import UserError
from utils.options.option import OnResume, Option, flag_of, option_names, options_of
from utils.options.train_options import (
    AUTO_BATCH,
    NOT_INHERITED_NAMES,
    TrainOptions,
    TrainRequest,
)

log = logging.getLogger("yolo")

FREE, ALLOWABLE, NOT_INHERITED = OnResume.FREE, OnResume.ALLOWABLE, OnResume.NOT_INHERITED


class ResumedOptions(NamedTuple):
    """The options of a resumed run, and the names of those that --allow-change let differ."""

    options: TrainOptions
    allowed: frozenset[str]


def resumed_options(
    request: TrainRequest,
    saved: Mapping[str, Any],  # checked when the options are built
) -> ResumedOptions:
    """Options of a resumed run: the saved ones, updated by free and allowed ones of the request.

    Raises:
        UserError: if a given option would change the training without --allow-change.
    """
    kind = type(request.options)
    known = options_of(kind)
    # A run imported from YOLOv5 does not record every option: there is no old value to keep.
    unrecorded = option_names(kind, ALLOWABLE) - saved.keys()
    own = {name: saved[name] for name in saved.keys() & known.keys() - NOT_INHERITED_NAMES}
    changes, allowed = {}, set()
    for name in sorted(request.given):
        old, new = saved.get(name), getattr(request.options, name)
        if name == "batch_size" and new == AUTO_BATCH:
            log.info("--batch-size -1 is measured when a run starts; this run keeps its %s.", old)
            continue
        is_free = known[name].resume in (FREE, NOT_INHERITED)
        is_file = name in ("data", "hyp")  # their content is compared later
        if not is_free and not is_file and old != new:
            if name not in request.continuation.allow_change | unrecorded:
                raise UserError(_changed_option_message(name, known[name], old, new))
            allowed.add(name)
        changes[name] = new
    return ResumedOptions(kind(**{**own, **changes}), frozenset(allowed))


def _changed_option_message(name: str, known: Option, old: object, new: object) -> str:
    flag = flag_of(name)
    if name == "epochs":
        return (
            f"{flag} {new} differs from the {old} epochs that the run first planned; omit it, and "
            "add epochs with --extend-epochs, or end the run earlier with --finish-epochs."
        )
    if name == "cos_lr":
        remedy = "change the learning rate with --extend-epochs and --lr-continuation"
    elif known.resume is ALLOWABLE:
        remedy = f"omit it, or allow the change with --allow-change {flag[2:]}"
    else:
        remedy = "omit it, because it is fixed when a run starts"
    values = (repr(value) if value == "" else value for value in (new, old))
    return "{} {} differs from the run's {}; {}.".format(flag, *values, remedy)
