"""Output of `--plan`: the ways to extend a run as table, plot and JSON; imports no torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.files.atomic_write import atomic_write, atomic_write_text
from utils.options.train_options import CLASSES
from utils.plots.plan_curves import save_lr_plan
from utils.runs.changes import changed_text
from utils.solver.continuation import Extension
from utils.solver.preview import PlanPreview, patience_rule, plan_previews, preview_warnings
from utils.solver.schedule import Plan

if TYPE_CHECKING:
    from utils.runs.run import Run

log = logging.getLogger("yolo")

PLOT_FILE, FACTORS_FILE = "lr_plan.png", "lr_plan.json"
HEADINGS = ("mode", "rate before", "after", "ratio", "final rate", "below 1 %", "sum")
EXPLANATION = (
    "below 1 %: first epoch with a rate below 1 % of lr0; "
    "sum: sum of the rates after the seam, in percent of the sum before it"
)
REQUESTED, OTHER = "> ", "  "


def planned_changes(run: Run) -> dict[str, str]:
    """Return what else an extension changes, and how: options and classes."""
    assert run.resume_point is not None  # for the type checker
    old = run.resume_point.checkpoint["config"]["options"]
    new = run.options.to_dict()
    # The data are not read, so whether the content of another file differs is unknown.
    names = run.allowed | {"data"} & run.continuation.allow_change
    changes = {
        name: f"{old.get(name)} → {new[name]}"
        for name in sorted(names & new.keys())
        if old.get(name) != new[name]
    }
    return changes | ({CLASSES: run.classes.describe()} if run.classes else {})


def report_plan(
    plan: Plan,
    completed: int,
    extension: Extension,
    folder: Path,
    changes: Mapping[str, str] | None = None,
) -> None:
    """Log the learning rate of each way to extend a run; save lr_plan.png and lr_plan.json.

    Raises:
        UserError: if the extension does not fit the run, or the folder cannot be written.
    """
    choices = plan_previews(plan, completed, extension)
    requested = next(choice.plan for choice in choices if choice.requested)
    total = requested.total_epochs
    log.info("Learning rates from epoch %d to a total of %d epochs:", completed, total)
    for line in table(choices):
        log.info("%s", line)
    log.info("%s: requested by the command line; %s", REQUESTED.strip(), EXPLANATION)
    log.info("%s", patience_rule(requested))
    if extension.close_mosaic:
        log.info("No mosaic and mixup from epoch %d on.", total - extension.close_mosaic)
    for name, change in (changes or {}).items():
        log.info("Changes with the extension: %s: %s", name.replace("_", " "), change)
    for sentence in preview_warnings(choices):
        log.warning("%s", sentence)
    numbers = json.dumps({preview.label: preview.plan.factors() for preview in choices})
    note = f", {changed_text(changes)}" if changes else ""
    atomic_write(
        folder / PLOT_FILE, lambda part: save_lr_plan(plan, completed, choices, part, note)
    )
    atomic_write_text(folder / FACTORS_FILE, numbers + "\n")
    log.info("Nothing was trained; see %s and %s", folder / PLOT_FILE, folder / FACTORS_FILE)


def table(choices: Sequence[PlanPreview]) -> list[str]:
    """Lines of a table with aligned columns: headings and one line per preview."""
    rows = [(OTHER + HEADINGS[0], *HEADINGS[1:]), *map(_cells, choices)]
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return ["  ".join([name.ljust(first), *map(str.rjust, cells, others)]) for name, *cells in rows]


def _cells(preview: PlanPreview) -> tuple[str, ...]:
    return (
        (REQUESTED if preview.requested else OTHER) + preview.label,
        f"{preview.rate_before:.4g}",
        f"{preview.rate_after:.4g}",
        f"{preview.ratio:.3f}",
        f"{preview.final_rate:.4g}",
        "never" if preview.small_from is None else str(preview.small_from),
        f"{preview.lr_sum_percent:.2f} %",
    )
