"""Starts a run: prepares its folder, and logs what begins."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from utils.checkpoint.format import BEST, LAST, PREVIOUS
from utils.checkpoint.store import read_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.files.atomic_write import atomic_copy
from utils.options.train_options import TrainOptions
from utils.runs.folder import create_run_folder, delete_run_files, run_folder_of
from utils.runs.lock import run_lock
from utils.runs.resume import ResumePoint, last_written, position
from utils.runs.run import Run
from utils.solver.preview import patience_rule, preview_extension, preview_warnings
from utils.solver.schedule import Plan

log = logging.getLogger("yolo")


def open_folder(run: Run) -> Path:
    """Return the folder of a run; creates it unless the run continues in place.

    Raises:
        UserError: if the folder cannot be created, or is that of the imported YOLOv5 run.
    """
    folder = run.folder or create_run_folder(run.project, run.options.name, run.options.exist_ok)
    point = run.resume_point
    if point is not None and point.folder is None and _is_folder_of(point, folder):
        raise UserError(f"{folder} is the folder of the YOLOv5 run itself; choose another --name.")
    return folder


def _is_folder_of(point: ResumePoint, folder: Path) -> bool:
    return folder.resolve() == run_folder_of(point.path).resolve()


@contextlib.contextmanager
def locked_folder(run: Run, folder: Path) -> Iterator[None]:
    """Lock a run folder for the duration of a with-block, and prepare it for the run.

    Raises:
        UserError: if another process trains in the folder, see also `set_up_folder`.
    """
    with run_lock(folder):
        set_up_folder(run, folder)
        yield


def set_up_folder(run: Run, folder: Path) -> None:
    """Prepare a locked run folder; deletes the files of a different run in it.

    An extension saves the checkpoint before the seam as `weights/seam_<E>.pt`. A branch into a new
    folder starts with a copy of the best weights so far.

    Raises:
        UserError: if its `last.pt` is further on than the checkpoint to continue from.
    """
    weights = folder / "weights"
    point = run.resume_point
    if point is None or not _is_folder_of(point, folder):
        delete_run_files(folder)
    else:
        _require_nothing_newer(weights / LAST, point)
    weights.mkdir(exist_ok=True)
    if point is None:
        return
    seam = weights / f"seam_{point.next_seam}.pt"
    if point.extended and not (point.replaces and seam.is_file()):
        save_checkpoint(point.checkpoint, seam)
    if run.folder is not None and point.path.name == PREVIOUS:
        # last.pt is damaged; replace it, because the next save renames it to last_prev.pt.
        atomic_copy(point.path, weights / LAST)
    if run.classes is None or run.classes.only_renames:
        _write_best(point, weights / BEST)


def _require_nothing_newer(last: Path, point: ResumePoint) -> None:
    """Check that a run does not write over a checkpoint that is further on.

    Another process may have trained since the checkpoint was read, or it is an earlier copy.
    """
    if not last.is_file() or last_written(last) == point.written:
        return
    try:
        found = read_checkpoint(last)
    except UserError:
        return  # damaged; the run continues from an older checkpoint
    if found["kind"] == "training" and position(found) > position(point.checkpoint):
        raise UserError(
            f"{last} is further on than {point.path}: {found['position']['epoch']} epochs are "
            f"done, not {point.completed}; continue it with --resume {last}, or branch off with "
            "--name NAME."
        )


def _write_best(resume_point: ResumePoint, target: Path) -> None:
    """Write the best weights so far, if the run has any."""
    best = resume_point.best
    if isinstance(best, Path):
        if best.resolve() != target.resolve():
            atomic_copy(best, target)
    elif best is not None:
        save_checkpoint(best, target)
    elif resume_point.checkpoint["best"]["epoch"] >= 0:
        save_checkpoint(resume_point.checkpoint, target)


def log_start(run: Run, plan: Plan, folder: Path) -> None:
    """Log which run starts and in which folder; at a seam, also how the learning rate changes."""
    if plan.segments[-1].close_mosaic and (run.options.rect or not run.hyp.mosaic):
        why = "--rect" if run.options.rect else "mosaic 0 in the hyper-parameters"
        log.warning("--close-mosaic has no effect: with %s, no epoch has mosaics.", why)
    point = run.resume_point
    if point is None:
        log.info("Training %d epochs into %s", plan.total_epochs, folder)
        return
    if point.extension is None:
        under_way = point.checkpoint["progress"]["batches"]
        log.info(
            "Resuming %s: %d of %d epochs are done%s",
            *(point.path, point.completed, plan.total_epochs),
            f", and {under_way} batches of the next epoch" if under_way else "",
        )
        return
    preview = preview_extension(point.saved, point.next_seam, point.extension, requested=True)
    log.info(
        "Extending %s from epoch %d to a total of %d epochs with `%s`, in %s: the learning rate "
        "changes from %.6g to %.6g (×%.4g) and ends at %.6g",
        *(point.path, point.next_seam, plan.total_epochs, preview.mode, folder),
        *(preview.rate_before, preview.rate_after, preview.ratio, preview.final_rate),
    )
    if run.options.patience:
        log.info("%s", patience_rule(plan))
    for warning in preview_warnings([preview]):
        log.warning("%s", warning)
    if point.replaces:
        log.info("This replaces an extension of which no epoch was trained.")
    saved = point.saved
    unfinished = point.next_seam < saved.total_epochs and not point.counts_from_seam
    if saved.seams and unfinished:
        log.warning(  # a command that is repeated after an interruption adds its epochs again
            "The extension to %d epochs is unfinished, %d epochs are done; --resume alone continues"
            " it. --extend-epochs adds another extension: %d epochs in total. If you do not want "
            "that, stop now and finish the earlier one with --resume %s.",
            *(saved.total_epochs, point.completed, plan.total_epochs),
            # In place, the extension has replaced the checkpoint by its own.
            point.path
            if run.folder is None
            else f"{point.path.with_name(f'seam_{point.next_seam}.pt')} --name NAME",
        )
    log_dropped(point, run.options)
    log_warmup(point)


def log_dropped(point: ResumePoint, options: TrainOptions) -> None:
    """Log what was planned for the last epochs of the run, and is not part of the extension."""
    last, planned = point.saved.segments[-1], point.saved.total_epochs
    average = point.checkpoint["config"]["options"].get("average", 0)
    for name, epochs, now in (
        ("close-mosaic", last.close_mosaic, options.close_mosaic),
        ("average", average, options.average),
    ):
        if epochs and not now and point.next_seam < planned:
            log.warning(
                "--%s %d was planned for the last epochs of %d and ends here; give it again for "
                "the last epochs of the extension.",
                *(name, epochs, planned),
            )


def log_warmup(resume_point: ResumePoint) -> None:
    """Log that the warm-up is not finished, so that the rates differ from the plan."""
    if "unresolved_position" in resume_point.checkpoint:
        return
    iteration = resume_point.checkpoint["position"]["iteration"]
    share = resume_point.plan.warmup.share(iteration)
    if share <= 1:
        log.info(
            "%.0f %% of the warm-up is completed: it continues after the seam, so the applied "
            "learning rate differs from the plan until it ends.",
            100 * share,
        )
