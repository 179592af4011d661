"""The training state: everything that training changes and a checkpoint saves."""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.detector import Detector
from utils.checkpoint.format import (
    FORMAT,
    VERSION,
    Best,
    Config,
    ContinuationRecord,
    DeployCheckpoint,
    Ema,
    SavedProgress,
    TrainingCheckpoint,
    Validation,
    deploy_info,
    plan_digest,
    validation_of,
)
from utils.errors import UserError
from utils.history import AT_SEAM_PREFIX, LOSS_NAMES, RAW_MAP_COLUMN, Row
from utils.runtime.device import HostCopy
from utils.runtime.distributed import SINGLE_PROCESS, Distributed
from utils.solver.ema import ModelEma, WeightAverage
from utils.solver.param_groups import optimizer_buffers, restore_buffers
from utils.solver.schedule import Plan
from utils.solver.seam import EMA_MAP_COLUMN
from utils.training.gradients import FlatGradients
from utils.training.step_outcome import EpochProgress, StepOutcome, StepSource

log = logging.getLogger("yolo")

NO_EPOCH = -1
MIN_SCALE = 1.0  # an overflow at a larger loss scale is due to the scale, not to the batch
VALIDATION = {"batch_size", "classes", "data", "imgsz"}
"""Allowed changes after which metrics cannot be compared with those before."""


@dataclass
class TrainingState:
    """The training state; only its methods and `utils.training.engine` change it."""

    model: Detector
    ema: ModelEma[Detector]
    optimizer: torch.optim.Optimizer
    parameter_names: list[str]
    """In the order of the optimizer's parameters."""
    scaler: torch.amp.GradScaler
    epoch: int = 0
    """Completed epochs."""
    iteration: int = 0
    """Batches trained since the start of the run."""
    progress: EpochProgress = field(default_factory=EpochProgress)
    bad_losses: int = 0
    """Consecutive batches skipped because of a non-finite loss."""
    bad_gradients: int = 0
    """Consecutive steps skipped because of a non-finite gradient."""
    best_fitness: float = float("-inf")
    best_epoch: int = NO_EPOCH
    best_validation: Validation | None = None
    """The validation in which the best fitness was measured; None: that of the run."""
    best_saved_fitness: float | None = None
    """The fitness in best.pt, if it was measured in another validation."""
    stopped_early: bool = False
    finalized: bool = False
    """Whether the steps after the last epoch are done too; key `closed` in the checkpoint."""
    gradients: FlatGradients = field(init=False)
    """Of the trained parameters; zeros between two steps."""
    unsettled: StepOutcome | None = None
    """The last optimizer step, if its outcome was not read yet: EMA and counters lack it."""
    votes: Sequence[float] = ()
    """Those of the last outcome that was read."""
    average: WeightAverage[Detector] | None = None
    """Mean of the weights after the last planned epochs, from the first of these epochs on."""
    history: list[Row] = field(default_factory=list)
    continuations: list[ContinuationRecord] = field(default_factory=list)
    """One record per resume or extension of the run."""

    def __post_init__(self) -> None:
        """Allocate the gradients."""
        self.gradients = FlatGradients([p for p in self.model.parameters() if p.requires_grad])

    def settle(self, statistics: Mapping[str, Tensor] | None = None) -> None:
        """Read the outcome of the last step, and let EMA and counters follow.

        Args:
            statistics: batch-norm statistics after that step, if a forward pass has changed those
                of the model since.

        Raises:
            UserError: too many consecutive steps were not finite.
        """
        outcome, self.unsettled = self.unsettled, None
        if outcome is None:
            return
        box, obj, cls, finite_loss, finite_gradient, scale, *self.votes = outcome.values.read()
        if outcome.is_loss_new:
            self._count_loss([box, obj, cls], outcome.source, finite=bool(finite_loss))
        if not finite_loss:
            return
        if finite_gradient:
            self.ema.update(self.model, statistics)
            self.bad_gradients = 0
        elif scale <= MIN_SCALE:
            self.progress.skipped += outcome.applied
            self.bad_gradients += 1
            outcome.source.report(self.bad_gradients, "gradient")

    def check_loss(self, measured: Tensor, source: StepSource) -> bool:
        """Return whether the losses of a batch are finite, and count it; waits for the device.

        Args:
            measured: box, objectness and class loss, what else must be finite, and the votes.
            source: the batch.

        Raises:
            UserError: after too many consecutive batches that were skipped.
        """
        *losses, statistics = (values := HostCopy(measured).read())[: len(LOSS_NAMES) + 1]
        self.votes = values[len(LOSS_NAMES) + 1 :]
        finite = all(map(math.isfinite, (*losses, statistics)))
        self._count_loss(losses, source, finite=finite)
        return finite

    def _count_loss(self, losses: Sequence[float], source: StepSource, *, finite: bool) -> None:
        if finite:
            self.progress.add(torch.tensor(losses))
            self.bad_losses = 0
            return
        self.progress.skipped += 1
        self.bad_losses += 1
        source.report(self.bad_losses, "loss or batch norm")

    def to_checkpoint(
        self, plan: Plan, config: Config, distributed: Distributed = SINGLE_PROCESS
    ) -> TrainingCheckpoint:
        """The complete state as tensors and plain data; all processes must call this together.

        Raises:
            UserError: see `settle`.
        """
        self.settle()
        checkpoint = TrainingCheckpoint(
            format=FORMAT,
            version=VERSION,
            kind="training",
            model=_to_cpu(self.model.state_dict()),
            ema=_ema_to_plain(self.ema),
            optimizer={
                "name": type(self.optimizer).__name__,
                "buffers": optimizer_buffers(self.optimizer, self.parameter_names),
            },
            scaler=self.scaler.state_dict(),
            plan=plan.to_dict(),
            plan_digest=plan_digest(plan.to_dict()),
            position={"epoch": self.epoch, "iteration": self.iteration},
            progress=self._progress_to_plain(distributed),
            best=self._best_to_plain(config),
            stopped_early=self.stopped_early,
            closed=self.finalized,
            continuations=self.continuations,
            history=[dict(row) for row in self.history],
            config=config,
            software=software(),
        )
        if self.average is not None:
            checkpoint["average"] = _ema_to_plain(self.average)
        return checkpoint

    def _best_to_plain(self, config: Config) -> Best:
        best = Best(fitness=self.best_fitness, epoch=self.best_epoch)
        best["validation"] = self.best_validation or validation_of(config)
        if self.best_saved_fitness is not None:
            best["saved_fitness"] = self.best_saved_fitness
        return best

    def _progress_to_plain(self, distributed: Distributed) -> SavedProgress:
        done = self.progress
        gradients = {}
        for name in self.parameter_names if done.pending else ():
            parameter = self.model.get_parameter(name)
            assert parameter.grad is not None  # for the type checker; see FlatGradients
            # Saved without loss scaling, because the run may be resumed in another precision.
            summed = distributed.all_reduce_sum(parameter.grad)
            gradients[name] = (summed / self.scaler.get_scale()).cpu()
        return SavedProgress(
            batches=done.batches,
            counted=done.counted,
            losses=done.losses.cpu() if done.batches else None,
            pending=done.pending,
            skipped=done.skipped,
            bad_losses=self.bad_losses,
            bad_gradients=self.bad_gradients,
            gradients=gradients,
        )

    def _restore_progress(self, saved: SavedProgress, distributed: Distributed) -> None:
        self.bad_losses = saved["bad_losses"]
        self.bad_gradients = saved["bad_gradients"]
        if saved["losses"] is None:  # between epochs
            return
        self.progress = EpochProgress(
            batches=saved["batches"],
            counted=saved["counted"],
            losses=saved["losses"],
            pending=saved["pending"],
            skipped=saved["skipped"],
        )
        device = next(self.model.parameters()).device
        self.scaler.scale(torch.zeros((), device=device))  # initializes the scaler for unscale_
        if distributed.is_main:  # saved as the sum over all processes
            for name, gradient in saved["gradients"].items():
                parameter = self.model.get_parameter(name)
                assert parameter.grad is not None  # for the type checker; see FlatGradients
                parameter.grad.copy_(gradient.to(parameter.device) * self.scaler.get_scale())

    def restore(
        self,
        checkpoint: TrainingCheckpoint,
        distributed: Distributed = SINGLE_PROCESS,
        *,
        ended: bool = False,
        keep_average: bool = False,
    ) -> None:
        """Restore a state saved by `to_checkpoint`.

        Model, EMA and parameter groups must have the saved configuration. Buffers of another
        optimizer are not restored. All processes must call this together.

        Unless all epochs are trained (`ended`), an early stop is cleared, because the run now has
        more epochs or more patience. The mean of the last epochs is restored with `keep_average`.

        Raises:
            UserError: if the tensors do not fit the model that the checkpoint describes.
        """
        try:
            self.model.load_state_dict(checkpoint["model"])
            self.ema.restore(checkpoint["ema"]["weights"], checkpoint["ema"]["updates"])
            if keep_average:
                mean = checkpoint["average"]
                self.average = WeightAverage(self.model)
                self.average.restore(mean["weights"], mean["updates"])
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(
                f"the checkpoint is damaged (its tensors do not fit its model: {reason}); resume "
                "another checkpoint."
            ) from error
        saved = checkpoint["optimizer"]
        if saved["name"] == type(self.optimizer).__name__:  # other optimizers have other buffers
            restore_buffers(self.optimizer, self.parameter_names, saved["buffers"])
        if checkpoint["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(checkpoint["scaler"])
        self.epoch = checkpoint["position"]["epoch"]
        self.iteration = checkpoint["position"]["iteration"]
        self._restore_progress(checkpoint["progress"], distributed)
        best = checkpoint["best"]
        self.replace_best(best["fitness"], best["epoch"], best.get("saved_fitness"))
        self.best_validation = best.get("validation") or validation_of(checkpoint["config"])
        self.stopped_early = ended and checkpoint["stopped_early"]
        self.history = [dict(row) for row in checkpoint["history"]]
        self.continuations = list(checkpoint["continuations"])

    def replace_best(self, fitness: float, epoch: int, saved_fitness: float | None = None) -> None:
        """Set the best epoch, its fitness in the validation of the run, and that in best.pt."""
        self.best_fitness, self.best_epoch = fitness, epoch
        self.best_validation, self.best_saved_fitness = None, saved_fitness

    def record_seam_check(
        self, ema: float | None, raw: float | None, common: Row | None = None
    ) -> None:
        """Add the mAP50-95 measured at a seam, where a run continues, to the last epoch's row.

        The epochs after the seam may use other validation images or another image size. The saved
        weights are therefore validated again with the new ones, so that the metrics are comparable.
        `ema` and `raw` are those of the EMA and the non-EMA weights, None if not measured; `common`
        has columns with the means over the classes that stay, see `common_maps`.
        """
        if not self.history:
            return
        row = self.history[-1]
        if raw is not None:
            row.setdefault(RAW_MAP_COLUMN, raw)
        measured = {EMA_MAP_COLUMN: ema, RAW_MAP_COLUMN: raw, **(common or {})}
        found = {name: value for name, value in measured.items() if value is not None}
        row.update({AT_SEAM_PREFIX + name: value for name, value in found.items()})

    def common_classes(self, start: int) -> list[str]:
        """Classes that stayed when the classes last changed, at epoch `start` or later.

        Empty if they did not change, or if all stayed and none was added.
        """
        for record in reversed(self.continuations):
            classes = record.get("classes") if record["epoch"] >= start else None
            if classes is not None and (classes["new"] or classes["dropped"]):
                return classes["kept"]
        return []

    def comparable_since(self) -> int:
        """First epoch that was validated like the next one, as far as options and data say."""
        changes = [r["epoch"] for r in self.continuations if VALIDATION & {*r["allowed_changes"]}]
        return max(changes, default=0)

    def record_continuation(self, continuation: ContinuationRecord, *, replaces: bool) -> None:
        """Add the record of a resume or an extension.

        It replaces earlier extensions at this epoch, of which no epoch was trained, if `replaces`.
        """
        if replaces:
            self.continuations = [
                earlier
                for earlier in self.continuations
                if earlier["kind"] != "extended" or earlier["epoch"] != continuation["epoch"]
            ]
        self.continuations.append(continuation)

    def add_to_average(self) -> None:
        """Add the current weights to the mean of the last epochs."""
        if self.average is None:
            self.average = WeightAverage(self.model)
        self.average.update(self.model)

    def finalize(self) -> None:
        """Mark the run as complete, after the steps that follow the last epoch."""
        self.finalized = True


def software() -> dict[str, str]:
    """Versions and settings of this process on which the last digits of a run depend."""
    return {
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
    }


def deploy_checkpoint(checkpoint: TrainingCheckpoint) -> DeployCheckpoint:
    """The inference part of a training checkpoint: EMA weights in fp16, model and class names."""
    return stripped(checkpoint["ema"]["weights"], checkpoint["config"], deploy_info(checkpoint))


def stripped(weights: Mapping[str, Tensor], config: Config, info: Best) -> DeployCheckpoint:
    """A file for inference with weights in fp16; `info` is their epoch and fitness."""
    return DeployCheckpoint(
        format=FORMAT,
        version=VERSION,
        kind="deploy",
        weights={
            name: t.half() if t.is_floating_point() else t for name, t in _to_cpu(weights).items()
        },
        spec=config["spec"],
        names=config["names"],
        epoch=info["epoch"],
        fitness=info["fitness"],
    )


def require_finite(checkpoint: TrainingCheckpoint) -> None:
    """Check that all tensors of a checkpoint are finite.

    Raises:
        UserError: if a weight, an EMA weight or an optimizer buffer is not finite.
    """
    parts = {"weights": checkpoint["model"], "EMA weights": checkpoint["ema"]["weights"]}
    parts |= {
        f"optimizer buffers of {name}": buffers
        for name, buffers in checkpoint["optimizer"]["buffers"].items()
    }
    for part, tensors in parts.items():
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise UserError(
                    f"the {part} are no longer finite ({name}) and were not saved; resume last.pt, "
                    "which is older, with a lower lr0 in the hyp file."
                )


def _ema_to_plain(ema: ModelEma[Detector]) -> Ema:
    return Ema(weights=_to_cpu(ema.model.state_dict()), updates=ema.updates)


def _to_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict on the CPU, without the metadata of the module."""
    return {name: tensor.detach().cpu() for name, tensor in state.items()}
