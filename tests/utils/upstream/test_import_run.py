"""A run of YOLOv5 is imported completely and exactly."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import utils.upstream.import_run as module
from models.detector import Detector
from models.spec import ModelSpec
from tests.checkpoints import read_checkpoint, save_checkpoint
from tests.paths import SHARED, requires_shared
from utils.checkpoint.format import validate_checkpoint
from utils.checkpoint.pickle_records import require_type
from utils.errors import UserError
from utils.history import COLUMNS, write_results
from utils.hyp import Hyp
from utils.options.train_options import Continuation, TrainOptions
from utils.solver.continuation import Extension, extend_plan
from utils.solver.ema import ModelEma
from utils.solver.modes import JUMPING_MODES
from utils.solver.param_groups import build_optimizer, parameter_groups
from utils.solver.schedule import MODES, Plan
from utils.training.state import TrainingState
from utils.upstream.import_run import (
    ImportedRun,
    import_run,
    with_batches_per_epoch,
)
from utils.upstream.reader import UpstreamCheckpoint, read_upstream
from utils.upstream.state import optimizer_state

LEGACY = SHARED / "legacy"
VERSIONS = ("v5.0", "v7")
PARTIAL = Continuation(allow_partial_state=True)

pytestmark = requires_shared


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def imported(version: str) -> ImportedRun:
    return import_run(LEGACY / version / "epoch1.pt", Continuation())


@pytest.fixture(scope="module")
def expected(version: str) -> dict[str, Any]:
    return json.loads((LEGACY / version / "epoch1_expected.json").read_text())


def plan_of(imported: ImportedRun) -> Plan:
    return Plan.from_dict(imported.checkpoint["plan"])


def completed_with(imported: ImportedRun, batches_per_epoch: int) -> ImportedRun:
    checkpoint = with_batches_per_epoch(imported.checkpoint, batches_per_epoch)
    return imported._replace(checkpoint=checkpoint)


def copy_run(folder: Path, version: str, *names: str) -> Path:
    """Copy files of a legacy run into a run folder, checkpoints into weights/."""
    (folder / "weights").mkdir()
    for name in names:
        target = folder / "weights" if name.endswith(".pt") else folder
        shutil.copyfile(LEGACY / version / name, target / name)
    return folder / "weights" / names[0]


class TestUnstripped:
    def test_result_is_a_valid_checkpoint(self, imported: ImportedRun, tmp_path: Path) -> None:
        assert validate_checkpoint(imported.checkpoint, "it")["kind"] == "training"
        save_checkpoint(imported.checkpoint, tmp_path / "last.pt")
        again = read_checkpoint(tmp_path / "last.pt")
        assert again["plan"] == imported.checkpoint["plan"]
        assert again["config"] == imported.checkpoint["config"]
        assert again["position"] == {"epoch": 2, "iteration": 16}
        options = TrainOptions(**again["config"]["options"])
        assert options.batch_size == 16
        assert options.imgsz == 160
        assert Hyp.from_dict(again["config"]["hyp"], "it").warmup_bias_lr == 0.1

    def test_weights_and_ema_weights(self, imported: ImportedRun, expected: dict[str, Any]) -> None:
        checkpoint = imported.checkpoint
        own = Detector(ModelSpec.from_dict(checkpoint["config"]["spec"])).state_dict()
        for state, norms in (
            (checkpoint["model"], expected["weight_norm"]),
            (checkpoint["ema"]["weights"], expected["ema_norm"]),
        ):
            assert list(state) == list(own)
            for name, value in state.items():
                assert value.dtype == own[name].dtype
                if value.is_floating_point():
                    assert value.double().norm().item() == pytest.approx(norms[name], rel=1e-12)
            # only v5.0's second copy of the anchors is dropped
            floating = {name for name in own if own[name].is_floating_point()}
            assert set(norms) - floating <= {"model.24.anchor_grid"}

    def test_momentum_by_name(self, imported: ImportedRun, expected: dict[str, Any]) -> None:
        optimizer = imported.checkpoint["optimizer"]
        assert optimizer["name"] == "SGD"
        sums = expected["momentum_buffer_norm_sum"]
        assert set(optimizer["buffers"]) == set(sums)
        for name, (norm, total) in sums.items():
            assert list(optimizer["buffers"][name]) == ["momentum_buffer"]
            buffer = optimizer["buffers"][name]["momentum_buffer"]
            assert buffer.dtype == torch.float32
            assert buffer.double().norm().item() == pytest.approx(norm, rel=1e-12)
            assert buffer.double().sum().item() == pytest.approx(total, rel=1e-9, abs=1e-12)

    def test_counter_position_and_warmup(self, imported: ImportedRun, version: str) -> None:
        """The momentum gives 8 batches per epoch, two epochs into a long warm-up."""
        checkpoint = imported.checkpoint
        assert checkpoint["ema"]["updates"] == 16
        assert "unresolved_position" not in checkpoint
        assert checkpoint["position"] == {"epoch": 2, "iteration": 16}
        plan = plan_of(imported)
        assert plan.warmup.iterations == {"v5.0": 1000, "v7": 100}[version]
        assert plan.accumulate == 4

    def test_settings_of_the_last_step_equal_those_of_the_file(
        self, imported: ImportedRun, expected: dict[str, Any]
    ) -> None:
        """Our plan at iteration 15 equals the settings in upstream's optimizer."""
        plan, group = plan_of(imported), expected["groups"][0]
        assert plan.settings(1, 15).momentum == pytest.approx(group["momentum"], abs=1e-15)
        assert plan.lr0 * plan.factor(1) == pytest.approx(group["lr"], rel=1e-12)
        assert plan.lr0 == group["initial_lr"]

    def test_law(self, imported: ImportedRun, version: str) -> None:
        plan = plan_of(imported)
        law, total, factor = {
            "v5.0": ("cosine", 3, 0.8),  # ((1 - cos(pi / 3)) / 2)(0.2 - 1) + 1
            "v7": ("linear", 4, 0.7525),  # (1 - 1 / 4) 0.99 + 0.01
        }[version]
        assert plan.segments[0].law == law
        assert plan.total_epochs == total
        assert plan.factor(1) == pytest.approx(factor, abs=1e-12)
        assert imported.checkpoint["config"]["options"]["cos_lr"] == (law == "cosine")

    @pytest.mark.parametrize("mode", MODES)
    def test_extension_continues_from_the_last_rate(self, imported: ImportedRun, mode: str) -> None:
        plan = plan_of(imported)
        longer = extend_plan(plan, 2, Extension(epochs=2, mode=mode))
        assert longer.total_epochs == plan.total_epochs + 2
        if mode not in JUMPING_MODES:
            assert longer.factor(2) == plan.factor(1)

    def test_ema_predictions_equal_upstreams(self, imported: ImportedRun, version: str) -> None:
        golden = np.load(LEGACY / version / "epoch1_expected_forward.npz")
        model = Detector(ModelSpec.from_dict(imported.checkpoint["config"]["spec"])).eval()
        model.load_state_dict(imported.checkpoint["ema"]["weights"])
        with torch.no_grad():
            raw = model(torch.from_numpy(golden["image"]))
            found = torch.stack(model.decode_confident(raw, threshold=-1.0))
        assert np.abs(found.numpy() - golden["ema_pred"]).max() < 1e-3

    def test_anchors_of_the_model_specification(
        self, imported: ImportedRun, expected: dict[str, Any]
    ) -> None:
        rows = imported.checkpoint["config"]["spec"]["anchors"]
        assert rows == [np.ravel(level).tolist() for level in expected["anchors_px"]]

    def test_restores_into_a_training_state(self, imported: ImportedRun) -> None:
        checkpoint = imported.checkpoint
        model = Detector(ModelSpec.from_dict(checkpoint["config"]["spec"]))
        groups = parameter_groups(model)
        state = TrainingState(
            model=model,
            ema=ModelEma(model),
            optimizer=build_optimizer(groups, "SGD", lr=0.01, momentum=0.9, weight_decay=0),
            parameter_names=groups.names,
            scaler=torch.amp.GradScaler("cpu", enabled=False),
        )
        state.restore(checkpoint)
        assert (state.epoch, state.iteration, state.ema.updates) == (2, 16, 16)
        for name, parameter in model.named_parameters():
            buffer = state.optimizer.state[parameter]["momentum_buffer"]
            assert torch.equal(buffer, checkpoint["optimizer"]["buffers"][name]["momentum_buffer"])

    def test_known_position_does_not_depend_on_the_loader(self, imported: ImportedRun) -> None:
        assert with_batches_per_epoch(imported.checkpoint, 500) is imported.checkpoint

    def test_nothing_is_written(self, tmp_path: Path) -> None:
        path = copy_run(tmp_path, "v7", "epoch1.pt", "opt.yaml", "results.csv")
        before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
        import_run(path, Continuation())
        assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


class TestHistory:
    def test_history_of_v7(self) -> None:
        checkpoint = import_run(LEGACY / "v7" / "epoch1.pt", Continuation()).checkpoint
        first, second = checkpoint["history"]
        assert list(first) == list(COLUMNS)
        assert (first["epoch"], first["metrics/mAP_0.5:0.95"], first["x/lr0"]) == (
            *(0, 0.032135, 0.0937),
        )
        assert (second["epoch"], second["val/cls_loss"]) == (1, 0.043844)
        assert checkpoint["best"] == {"fitness": 0.07723735035398523, "epoch": 1}

    def test_history_of_v5(self, tmp_path: Path) -> None:
        """The history is in the checkpoint; its epochs were not validated, so there is no best."""
        path = copy_run(tmp_path, "v5.0", "epoch1.pt", "opt.yaml")
        checkpoint = import_run(path, Continuation()).checkpoint
        assert [row["train/obj_loss"] for row in checkpoint["history"]] == [0.02135, 0.02429]
        assert math.isnan(checkpoint["history"][1]["metrics/mAP_0.5"])
        assert checkpoint["best"] == {"fitness": -math.inf, "epoch": -1}

    def test_no_history(self, tmp_path: Path) -> None:
        path = copy_run(tmp_path, "v7", "epoch1.pt")
        found = import_run(path, Continuation())
        assert [row["epoch"] for row in found.checkpoint["history"]] == [0, 1]
        assert math.isnan(found.checkpoint["history"][0]["train/box_loss"])
        assert found.checkpoint["best"] == {"fitness": 0.07723735035398523, "epoch": 1}
        assert (
            found.checkpoint["missing"]["history"]
            == "2 of 2 epochs are missing from the results file"
        )

    def test_report_of_found_and_missing_parts(self) -> None:
        found = import_run(LEGACY / "v7" / "epoch1.pt", Continuation())
        assert found.found == (
            "YOLOv5 v7.0 checkpoint, 349 tensors",
            "2 of 4 epochs completed, linear schedule",
            "optimizer buffers of 177 of 177 parameters",
            "EMA counter 16",
            "history of 2 epochs",
        )
        assert found.checkpoint["missing"] == {
            "full precision": "YOLOv5 saves weights and EMA in fp16; relative rounding error about "
            "0.05 %",
            "data order": "never saved by YOLOv5; derived from the seed and the epoch",
            "AMP scaler": "never saved by YOLOv5",
            "precision": "not recorded by YOLOv5",
        }

    def test_run_on_a_cpu_lacks_no_scaler(self) -> None:
        found = import_run(LEGACY / "v5.0" / "epoch1.pt", Continuation())
        assert list(found.checkpoint["missing"]) == ["full precision", "data order"]
        assert found.checkpoint["config"]["precision"] == "fp32"


class TestStripped:
    def test_refused_by_default(self, version: str) -> None:
        with pytest.raises(
            UserError, match=r"stripped of optimizer, .*, EMA counter, epoch, .* --allow-partial-st"
        ):
            import_run(LEGACY / version / "last_stripped.pt", Continuation())

    def test_weights_only(self, version: str) -> None:
        found = import_run(LEGACY / version / "last_stripped.pt", PARTIAL)
        checkpoint = completed_with(found, 8).checkpoint
        assert validate_checkpoint(checkpoint, "it") == checkpoint
        assert checkpoint["optimizer"] == {"name": "SGD", "buffers": {}}
        for name, value in checkpoint["model"].items():
            assert torch.equal(value, checkpoint["ema"]["weights"][name])
        total = {"v5.0": 3, "v7": 4}[version]
        assert checkpoint["position"] == {"epoch": total, "iteration": 8 * total}
        assert len(checkpoint["history"]) == total
        assert plan_of(found).total_epochs == total
        assert not checkpoint["stopped_early"]
        assert found.checkpoint["missing"]["optimizer"] == "stripped; momentum is reset"
        assert {"weights", "EMA", "epoch"} <= set(found.checkpoint["missing"])

    def test_ema_counter(self, version: str) -> None:
        """Batches per step: `round(1 + 3 i / length)`, and 4 after the warm-up."""
        found = import_run(LEGACY / version / "last_stripped.pt", PARTIAL)
        assert found.checkpoint["unresolved_position"]["count_updates"]
        # v5.0, 24 of 1000: 1 batch per step; v7, 32 of 100: 17 steps of 1 batch, then 15 batches
        # in pairs
        assert completed_with(found, 8).checkpoint["ema"]["updates"] == 24
        # v5.0, 300 of 1000: 167 steps of 1 batch, then 133 batches in pairs; v7, 300 and 100 more:
        # 50 steps of 1, then 101 batches in pairs, 1 pending and 99 in threes, 1 pending and 150
        # in fours
        updates = completed_with(found, 100).checkpoint["ema"]["updates"]
        assert updates == {"v5.0": 167 + 66, "v7": 50 + 50 + 33 + 37}[version]

    def test_unknown_completed_epochs(self, tmp_path: Path) -> None:
        path = copy_run(tmp_path, "v7", "last_stripped.pt")
        with pytest.raises(UserError, match="--completed-epochs N"):
            import_run(path, PARTIAL)
        options = Continuation(completed_epochs=3, allow_partial_state=True)
        found = import_run(path, options)
        assert found.checkpoint["position"]["epoch"] == 3
        assert found.checkpoint["stopped_early"]  # 4 were planned
        assert found.checkpoint["best"] == {"fitness": -math.inf, "epoch": -1}
        assert (
            found.checkpoint["missing"]["epoch"]
            == "stripped; 3 completed according to --completed-epochs"
        )
        with pytest.raises(UserError, match="5 epochs are completed, but the options plan only 4"):
            import_run(path, dataclasses.replace(options, completed_epochs=5))

    def test_unknown_planned_epochs(self, tmp_path: Path) -> None:
        """A stripped run has ended."""
        path = copy_run(tmp_path, "v5.0", "last_stripped.pt")
        found = import_run(
            path, Continuation(completed_epochs=300, allow_partial_state=True), "coco.yaml"
        )
        assert plan_of(found).total_epochs == 300
        assert found.checkpoint["missing"]["planned total"].startswith(
            "not recorded; a stripped run has ended, so it is 300"
        )

    def test_completed_epochs_of_best_are_those_of_the_best_row(self, tmp_path: Path) -> None:
        copy = copy_run(tmp_path, "v7", "last_stripped.pt", "results.csv")
        path = copy.rename(copy.with_name("best.pt"))
        lines = (tmp_path / "results.csv").read_text().splitlines()
        rows = [
            lines[0],
            lines[1],
            lines[4].replace("  3,", "  1,"),
            lines[2].replace(" 1,", " 2,"),
        ]
        (tmp_path / "results.csv").write_text("\n".join(rows))
        checkpoint = import_run(path, PARTIAL).checkpoint
        assert checkpoint["position"]["epoch"] == 2
        assert checkpoint["best"] == {"fitness": pytest.approx(0.0984736), "epoch": 1}
        assert not checkpoint["stopped_early"]


@pytest.fixture
def altered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Change the content that is read from files."""

    def alter(**changes: Any) -> None:
        def read(path: Path) -> UpstreamCheckpoint:
            return dataclasses.replace(read_upstream(path), **changes)

        monkeypatch.setattr(module, "read_upstream", read)

    return alter


def optimizer_with(**settings: float) -> dict[str, Any]:
    """The optimizer of the v7 file with other settings in every group."""
    optimizer = read_upstream(LEGACY / "v7" / "epoch1.pt").optimizer
    assert optimizer is not None
    groups = [group | settings for group in require_type(optimizer["param_groups"], list)]
    return optimizer | {"param_groups": groups}


class TestVariants:
    PATH = LEGACY / "v7" / "epoch1.pt"

    def test_position_after_the_warmup_depends_on_the_loader(
        self, altered: Callable[..., None]
    ) -> None:
        """A run of 100 epochs, past its warm-up, is continued with few and with many batches."""
        options = {"epochs": 200, "data": "a.yaml", "cos_lr": False}
        optimizer = optimizer_with(momentum=0.937, lr=0.01 * (1 - 99 / 200 * 0.99))
        altered(epoch=99, options=options, optimizer=optimizer)
        found = import_run(self.PATH, Continuation())
        assert found.checkpoint["unresolved_position"] == {
            "min_warmup": 100,
            "warmup_over": True,
            "count_updates": False,
        }
        many, few = completed_with(found, 50), completed_with(found, 1)
        assert many.checkpoint["position"] == {"epoch": 100, "iteration": 5000}
        assert plan_of(many).warmup.iterations == 150
        # one batch per epoch would be inside a warm-up of 100 iterations, which must not restart
        assert few.checkpoint["position"]["iteration"] == 100
        assert plan_of(few).warmup.iterations == 99
        for plan, iteration in ((plan_of(few), 100), (plan_of(many), 5000), (plan_of(found), 100)):
            settings = plan.settings(100, iteration)
            assert settings.bias_lr == settings.lr == pytest.approx(0.01 * 0.505)
            assert (settings.momentum, settings.accumulate) == (0.937, 4)
        assert many.checkpoint["ema"]["updates"] == 16

    def test_adam(self, altered: Callable[..., None]) -> None:
        content = read_upstream(self.PATH)
        numbers = range(len(content.parameter_kinds))
        assert content.optimizer is not None
        names = list(optimizer_state(content).buffers)
        state = {
            number: {
                "step": 16,  # an int in torch before 1.12
                "exp_avg": content.model_state[names[number]] * 0 + number,
                "exp_avg_sq": content.model_state[names[number]].float() * 0,
            }
            for number in numbers
        }
        groups = [
            {key: value for key, value in group.items() if key != "momentum"}
            for group in require_type(content.optimizer["param_groups"], list)
        ]
        altered(optimizer={"state": state, "param_groups": groups}, options=None)
        found = import_run(self.PATH, Continuation())
        optimizer = found.checkpoint["optimizer"]
        assert optimizer["name"] == "Adam"
        assert found.checkpoint["config"]["options"]["optimizer"] == "Adam"
        buffers = optimizer["buffers"][names[5]]
        assert torch.equal(buffers["step"], torch.tensor(16.0))
        assert buffers["exp_avg"].dtype == torch.float32
        assert buffers["exp_avg"].unique().tolist() == [5]
        assert "unresolved_position" in found.checkpoint

    def test_frozen_parameters_have_no_buffers(self, altered: Callable[..., None]) -> None:
        optimizer = read_upstream(self.PATH).optimizer
        assert optimizer is not None
        state = {
            n: s if n > 1 else {"momentum_buffer": None}
            for n, s in require_type(optimizer["state"], dict).items()
        }
        del state[2]
        altered(optimizer=optimizer | {"state": state})
        found = import_run(self.PATH, Continuation())
        assert len(found.checkpoint["optimizer"]["buffers"]) == 174
        assert "optimizer buffers of 174 of 177 parameters" in found.found

    def test_missing_planned_epochs_are_refused(
        self, altered: Callable[..., None], tmp_path: Path
    ) -> None:
        altered(options=None)
        path = copy_run(tmp_path, "v7", "epoch1.pt", "results.csv")
        with pytest.raises(
            UserError, match=r"has the planned number of epochs; put the run's opt\.yaml"
        ):
            import_run(path, Continuation(), "a.yaml")

    def test_rates_of_v6_are_reordered(self, altered: Callable[..., None], tmp_path: Path) -> None:
        altered(version="v6.1")
        path = copy_run(tmp_path, "v7", "epoch1.pt", "opt.yaml")
        row = dict.fromkeys(COLUMNS, 0.5) | {"x/lr0": 0.001, "x/lr1": 0.001, "x/lr2": 0.09}
        write_results([row | {"epoch": 0.0}, row | {"epoch": 1.0}], tmp_path / "results.csv")
        history = import_run(path, Continuation()).checkpoint["history"]
        assert [history[1][f"x/lr{group}"] for group in range(3)] == [0.09, 0.001, 0.001]

    def test_missing_tensor_is_refused(self, altered: Callable[..., None]) -> None:
        state = read_upstream(self.PATH).ema_state
        assert state is not None
        altered(ema_state={n: v for n, v in state.items() if n != "model.0.bn.bias"})
        with pytest.raises(UserError, match=r"lacks 1 tensors of its model \(model\.0\.bn\.bias"):
            import_run(self.PATH, Continuation())

    def test_completed_epochs_must_match_the_file(self) -> None:
        with pytest.raises(UserError, match=r"--completed-epochs 7: .* records 2 completed epochs"):
            import_run(self.PATH, Continuation(completed_epochs=7))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"schedule": "step"}, "--schedule step: choose one of"),
        ({"completed_epochs": 0}, "--completed-epochs 0: must be at least 1"),
    ],
)
def test_invalid_import_options_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Continuation(**option)
