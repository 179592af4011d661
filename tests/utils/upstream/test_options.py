"""Options and hyper-parameters of a YOLOv5 run are read from its files, or refused by name."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.paths import requires_shared
from tests.utils.upstream.test_import_run import (
    LEGACY,
    copy_run,
    plan_of,
)
from utils.errors import UserError
from utils.options.train_options import Continuation, TrainOptions
from utils.upstream.import_run import import_run

pytestmark = requires_shared


class TestConfiguration:
    def test_options_of_v5(self) -> None:
        checkpoint = import_run(LEGACY / "v5.0" / "epoch1.pt", Continuation()).checkpoint
        options = checkpoint["config"]["options"]
        known = {f.name for f in dataclasses.fields(TrainOptions)}
        assert set(options) == known - {"amp"}  # YOLOv5 does not have it, so any value may be given
        picked = {name: options[name] for name in ("imgsz", "noval", "epochs", "data", "device")}
        assert picked == {
            "imgsz": 160,
            "noval": True,
            "epochs": 3,
            "data": "data/coco128.yaml",
            "device": "cpu",
        }
        assert checkpoint["config"]["hyp"]["copy_paste"] == 0
        assert checkpoint["config"]["hyp"]["lrf"] == 0.2
        assert checkpoint["config"]["names"][:2] == ["person", "bicycle"]

    def test_data_and_schedule_from_import_options(self) -> None:
        path = LEGACY / "v7" / "epoch1.pt"
        found = import_run(path, Continuation(schedule="cosine"), "other.yaml")
        assert found.checkpoint["config"]["options"]["data"] == "other.yaml"
        assert found.checkpoint["config"]["options"]["cos_lr"]
        assert plan_of(found).factor(1) == pytest.approx(0.8550178567, abs=1e-9)

    def test_defaults_of_v5_replace_a_missing_hyp(self, tmp_path: Path) -> None:
        path = copy_run(tmp_path, "v5.0", "epoch1.pt", "opt.yaml")
        found = import_run(path, Continuation())
        assert found.checkpoint["config"]["hyp"]["lrf"] == 0.2
        assert found.checkpoint["missing"]["hyper-parameters"].startswith(
            "neither in the checkpoint nor in a hyp.yaml"
        )

    def test_unknown_hyperparameters_are_named(self, tmp_path: Path) -> None:
        path = copy_run(tmp_path, "v5.0", "epoch1.pt", "opt.yaml", "hyp.yaml")
        with (tmp_path / "hyp.yaml").open("a") as stream:
            stream.write("\nlabel_smoothing: 0.1\n")
        missing = import_run(path, Continuation()).checkpoint["missing"]
        assert missing["unknown hyper-parameters"] == "label_smoothing; ignored"

    def test_hyp_file_of_another_run_is_refused(self, tmp_path: Path) -> None:
        """The learning rate in the optimizer does not match it."""
        path = copy_run(tmp_path, "v5.0", "epoch1.pt", "opt.yaml", "hyp.yaml")
        text = (tmp_path / "hyp.yaml").read_text().replace("lrf: 0.2", "lrf: 0.1")
        (tmp_path / "hyp.yaml").write_text(text)
        with pytest.raises(
            UserError, match=r"is 0\.8 of the .* lrf 0\.1 gives 0\.775; no schedule matches"
        ):
            import_run(path, Continuation())
        found = import_run(path, Continuation(schedule="cosine"))
        assert plan_of(found).factor(1) == pytest.approx(0.775)

    def test_planned_epochs_from_the_results_txt_of_v5(self, tmp_path: Path) -> None:
        path = copy_run(tmp_path, "v5.0", "epoch1.pt")
        with pytest.raises(UserError, match=r"names the data set; add --data FILE"):
            import_run(path, Continuation())
        found = import_run(path, Continuation(), "coco128.yaml")
        assert plan_of(found).total_epochs == 3

    def edited(self, folder: Path, **changes: Any) -> Path:
        """A v5.0 run with changes in its opt.yaml."""
        path = copy_run(folder, "v5.0", "epoch1.pt", "opt.yaml", "hyp.yaml")
        options = yaml.safe_load((folder / "opt.yaml").read_text()) | changes
        (folder / "opt.yaml").write_text(yaml.safe_dump(options))
        return path

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"epochs": 1}, "2 epochs are completed, but the options plan only 1"),
            ({"epochs": "three"}, "option epochs of the run is 'three'"),
            (
                {"total_batch_size": -1},
                "AutoBatch and the chosen batch size is not recorded; write it",
            ),
            ({"label_smoothing": "much"}, "option label_smoothing of the run is 'much'"),
            ({"linear_lr": True}, "add --schedule cosine, which matches"),
            ({"data": None}, "add --data FILE"),
        ],
        ids=lambda value: str(value)[:20],
    )
    def test_invalid_options_are_refused(
        self, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            import_run(self.edited(tmp_path, **changes), Continuation())

    def test_options_with_older_names(self, tmp_path: Path) -> None:
        path = self.edited(
            tmp_path,
            **{"img_size": [320, 640], "cache_images": True, "image_weights": True},
            **{"device": "0,1", "batch_size": 8, "total_batch_size": 32, "freeze": 10},
            world_size=None,
        )
        found = import_run(path, Continuation())
        options = TrainOptions(**found.checkpoint["config"]["options"])
        assert (options.imgsz, options.cache, options.device) == (320, "ram", "")
        assert (options.batch_size, options.freeze) == (32, [10])
        assert plan_of(found).accumulate == 2
        assert (
            found.checkpoint["missing"]["--image-weights"]
            == "not supported by this program; ignored"
        )
        assert found.checkpoint["config"]["processes"] == 2
        assert found.checkpoint["config"]["precision"] == "unknown"
