"""What changes in a run that continues: data set, warm-up and hyper-parameters."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from utils.checkpoint.format import Config, TrainingCheckpoint
from utils.errors import UserError
from utils.hyp import Hyp, load_hyp
from utils.options.train_options import CLASSES, TrainRequest
from utils.solver.schedule import Plan, WarmUp, warmup_iterations

SEQUENCES = ("train sequence", "val sequence")
"""Digests in the fingerprint of a data set that also depend on the order of the images."""
PLAN_KEYS = ("lr0", "lrf", "momentum", "warmup_epochs", "warmup_momentum", "warmup_bias_lr")


def changed_text(names: Collection[str]) -> str:
    """Return a note for a plot, such as "imgsz changed"; other classes imply other data."""
    shown = {*names} - ({"data"} if CLASSES in names else set())
    return f"{', '.join(sorted(shown)).replace('_', ' ')} changed"


def data_changes(config: Config, new: Mapping[str, str | int]) -> list[str]:
    """Describe how the content of a data set changed; empty if it did not.

    Its place is not compared, unless there is nothing else.

    Args:
        config: of a checkpoint. Earlier versions recorded no order, an imported run no content.
        new: fingerprint of the data set, see `TrainingData.fingerprint`.
    """
    old = config.get("data", {})
    changed = [
        f"{name} {old[name]} → {new[name]}"
        for name in new
        if isinstance(new[name], int) and name in old and old[name] != new[name]
    ]
    digests = [name for name in SEQUENCES if name in old] or [n for n in ("content",) if n in old]
    if not digests:
        moved = old.get("file", config["options"]["data"]) != new["file"]
        return changed or ["the content of the earlier data set is not recorded"] * moved
    if all(old[name] == new[name] for name in digests):
        return changed
    if old.get("content") == new["content"] and not changed:
        return ["the order of its images differs"]
    return changed or ["names, sizes or labels of its images differ"]


def continued_warmup(checkpoint: TrainingCheckpoint, batches_per_epoch: int) -> WarmUp:
    """The warm-up, adapted if the epochs now have another number of batches.

    The rest of a warm-up under way is that of a new run with these batches. A longer minimum, of
    an imported run, stays.
    """
    warmup = Plan.from_dict(checkpoint["plan"]).warmup
    config, iteration = checkpoint["config"], checkpoint["position"]["iteration"]
    # An imported run has no data, but whole epochs.
    before = max(iteration // max(checkpoint["position"]["epoch"], 1), 1)
    if "data" in config:
        before = math.ceil(int(config["data"]["train images"]) / config["options"]["batch_size"])
    if before == batches_per_epoch:
        return warmup
    epochs = config["hyp"]["warmup_epochs"]
    length = warmup_iterations(epochs, batches_per_epoch)
    if warmup.length > warmup_iterations(epochs, before):
        length = max(length, warmup.length)
    return warmup.with_length(iteration, length)


def changed_hyp(old: Hyp, path: str, request: TrainRequest) -> Hyp:
    """The hyper-parameters of a file, for a run that was trained with `old` so far.

    Raises:
        UserError: if they differ and --allow-change does not name them, or if they change the
            learning-rate plan; only an extension can do that.
    """
    before, new = old.to_dict(), load_hyp(path)
    changed = {name: value for name, value in new.to_dict().items() if value != before[name]}
    fixed = [name for name in PLAN_KEYS if name in changed]
    if fixed:
        raise UserError(
            f"--hyp {path} changes {', '.join(fixed)} of the run's learning-rate plan; keep the "
            "old values, and change the rate with --extend-epochs and --peak or --lr-continuation."
        )
    if changed and "hyp" not in request.continuation.allow_change:
        values = ", ".join(f"{name} {before[name]} → {value}" for name, value in changed.items())
        raise UserError(
            f"--hyp {path} changes {values}; omit it, or allow the change with --allow-change hyp."
        )
    return new
