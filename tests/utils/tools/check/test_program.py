"""End-to-end tests of the program: log, files and exit code."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import yaml

from models.spec import load_spec
from tests.paths import DATASETS, ROOT, SHARED, requires_shared
from tests.utils.datasets.drawn import draw
from utils.errors import UserError
from utils.tools.check import page as dataset_page
from utils.tools.check.__main__ import main, read_anchor_grid

BOX = "0 .5 .5 .5 .5\n"
IMAGES = 4  # of each split
NOISE = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)


class CheckResult(NamedTuple):
    """Exit code and JSON report of a run."""

    code: int
    record: dict[str, Any]

    def cases(self, level: str, text: str) -> list[str]:
        """Return the files of the only finding of this level that contains `text`."""
        (cases,) = (
            finding["cases"]
            for finding in self.record["findings"]
            if finding["level"] == level and text in f"{finding['split']}: {finding['text']}"
        )
        return list(cases)


@pytest.fixture(autouse=True)
def _no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the plots, which take a second and have their own tests."""
    monkeypatch.setattr(dataset_page, "save_dataset_page", lambda _, path: path.touch())


def make(root: Path, **more: str) -> Path:
    """Write a valid data set of two splits with four images of one box; return its file."""
    for split in ("train", "val"):
        for number in range(IMAGES):
            side = 20 + 8 * number + 4 * (split == "val")
            draw(root, f"{split}/{number}", (64, 96), [(8, 8, 8 + side, 40)], label=number % 2)
    lines = {"path": ".", "train": "images/train", "val": "images/val", "names": "[cat, dog]"}
    file = root / "data.yaml"
    file.write_text("".join(f"{key}: {value}\n" for key, value in (lines | more).items()))
    return file


def check(file: Path | str, out: Path, *more: str) -> CheckResult:
    code = 0
    try:
        main([str(file), "--out", str(out), *more])
    except SystemExit as end:
        code = int(str(end.code))
    return CheckResult(code, json.loads((out / "check.json").read_text(encoding="utf-8")))


def test_valid_data_set_has_no_findings(tmp_path: Path) -> None:
    result = check(make(tmp_path), tmp_path / "out")
    assert result.code == 0
    assert result.record["findings"] == []
    assert result.record["can_start"]
    assert result.record["verdict"] == "Training can start; 0 warnings."
    train = result.record["splits"]["train"]
    assert {name: train[name] for name in ("images", "boxes", "backgrounds", "classes_used")} == {
        "images": 4,
        "boxes": 4,
        "backgrounds": 0,
        "classes_used": 2,
    }
    assert train["boxes_per_class"] == [2, 2]
    assert train["best_possible_recall"] == 1
    assert train["image_sizes"] == [[96, 64, 4]]
    assert (tmp_path / "out" / "check.png").exists()


def test_every_kind_of_problem_is_found(tmp_path: Path) -> None:
    file = make(tmp_path)
    images, labels = tmp_path / "images", tmp_path / "labels"
    plant: dict[str, Callable[[], object]] = {
        "leak": lambda: shutil.copy(images / "train/0.png", images / "val/leak.png"),
        "twin": lambda: shutil.copy(images / "train/1.png", images / "train/twin.png"),
        "twin's label": lambda: (labels / "train/twin.txt").write_text(BOX),
        "broken": lambda: (images / "train/broken.png").write_bytes(b"\x89PNG broken"),
        "class 80": lambda: (labels / "train/2.txt").write_text(
            BOX + "80 .5 .5 .5 .5\n1 .5 .5 1 1"
        ),
        "outside": lambda: (labels / "val/0.txt").write_text("0 1.5 .5 .5 .5\n"),
        "beyond the edge": lambda: (labels / "val/1.txt").write_text(BOX + "0 .9 .5 .4 .5\n"),
        "no number": lambda: (labels / "val/2.txt").write_text("cat .5 .5 .5 .5\n"),
        "empty label": lambda: (labels / "train/3.txt").write_text(""),
        "no label": (labels / "train/0.txt").unlink,
        "stray label": lambda: (labels / "train/stray.txt").write_text(BOX),
        "no area": lambda: (labels / "val/3.txt").write_text(BOX + "1 .5 .5 0 .5\n"),
        "too small": lambda: (labels / "val/leak.txt").write_text("0 .5 .5 .001 .5\n"),
        "two images, one label": lambda: cv2.imwrite(str(images / "val/3.jpg"), NOISE),
    }
    for fault in plant.values():
        fault()
    result = check(file, tmp_path / "out")
    assert result.code == 1
    assert (
        result.record["verdict"]
        == "Training cannot start, or would skip files: 3 reasons, 7 warnings."
    )
    broken = "images/train/broken.png is skipped: corrupt image (unknown image format)"
    (case,) = result.cases("stop", "train: 1 image with an unusable image or label file")
    assert case.startswith(broken)
    assert result.cases("stop", "val: 2 images with an unusable image or label file") == [
        "images/val/0.png is skipped: labels/val/0.txt: line 1 has a coordinate outside 0 to 1; "
        "correct it.",
        "images/val/2.png is skipped: labels/val/2.txt: line 1 has a value that is not a number, "
        "'cat'; write the class as its index in the list of names, 0, 1, 2 …, and the box in "
        "fractions of the image.",
    ]
    assert result.cases("stop", "train: 1 box with a class out of range") == [
        "labels/train/2.txt: class 80"
    ]
    assert result.cases("warning", "train: 1 duplicate image") == [
        "images/train/1.png = images/train/twin.png, but their labels differ"
    ]
    assert result.cases("warning", "train, val: 1 image of val also in train") == [
        "images/train/0.png = images/val/leak.png, but their labels differ"
    ]
    assert result.cases("warning", "val: 1 box beyond the image") == ["labels/val/1.txt: 1 box"]
    assert result.cases("warning", "val: 1 box with a side below 2 px") == [
        "labels/val/leak.txt: 1 box"
    ]
    assert result.cases("warning", "1 label file without an image") == ["labels/train/stray.txt"]
    assert result.cases("warning", "val: 1 label file used by several images") == [
        "labels/val/3.txt"
    ]
    assert "labels/val/3.txt: 1 box(es) without area removed." in result.cases("warning", "repair")
    assert result.cases("note", "train: 2 images without a box") == [
        "images/train/0.png: no label file",
        "images/train/3.png: a label file without boxes",
    ]


def test_unreadable_image_is_only_a_warning_in_the_test_split(tmp_path: Path) -> None:
    file = make(tmp_path, test="images/test")
    draw(tmp_path, "test/0", (64, 96), [(8, 8, 70, 40)])
    (tmp_path / "images/test/1.png").write_bytes(b"broken")
    result = check(file, tmp_path / "out")
    assert result.code == 0
    assert len(result.cases("warning", "test: 1 image with an unusable image or label file")) == 1
    assert result.record["splits"]["test"]["images"] == 1


def test_images_that_are_left_out_or_nearly_black_are_warnings(tmp_path: Path) -> None:
    file = make(tmp_path)
    (tmp_path / "images/train/a.heic").touch()
    for name in ("images/train/._0.png", "labels/train/._0.txt"):
        (tmp_path / name).touch()
    cv2.imwrite(str(tmp_path / "images/train/1.png"), np.full((64, 96), 4095, np.uint16))
    result = check(file, tmp_path / "out")
    assert result.code == 0
    (dark,) = result.cases("warning", "train: 1 image nearly black")
    assert dark.startswith("images/train/1.png is nearly black, because it uses only the lower")
    left_out = "files of formats that are not read are left out: 1 (.heic); convert"
    assert result.cases("warning", left_out) == []
    assert result.record["verdict"] == "Training can start; 2 warnings."


def test_split_without_boxes_stops_training_only_for_train(tmp_path: Path) -> None:
    file = make(tmp_path)
    for name, code in (("val", 0), ("train", 1)):
        shutil.rmtree(tmp_path / "labels" / name)
        result = check(file, tmp_path / "out")
        assert result.code == code
        assert result.cases("warning" if name == "val" else "stop", f"{name}: ") == []


def test_missing_test_split_is_skipped(tmp_path: Path) -> None:
    result = check(make(tmp_path, test="images/test"), tmp_path / "out")
    assert result.code == 0
    assert list(result.record["splits"]) == ["train", "val"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"val": ""}, "val: the data-set file has no `val:` line"),
        ({"train": ""}, "train: the data-set file has no `train:` line"),
        ({"train": "images/none"}, "is incomplete"),
    ],
)
def test_missing_split_is_reported(tmp_path: Path, change: dict[str, str], text: str) -> None:
    result = check(make(tmp_path, **change), tmp_path / "out")
    assert result.code == 1
    assert result.cases("stop", text) == []
    assert len(result.record["splits"]) == 1


def test_missing_data_set_is_reported(tmp_path: Path) -> None:
    file = make(tmp_path, path=str(tmp_path / "none"))
    shutil.rmtree(tmp_path / "images")
    result = check(file, tmp_path / "out")
    assert result.code == 1
    assert result.record["splits"] == {}
    assert not (tmp_path / "out" / "check.png").exists()


def test_validating_on_the_training_images_is_warned_of_once(tmp_path: Path) -> None:
    result = check(make(tmp_path, val="images/train"), tmp_path / "out")
    assert result.code == 0
    assert result.cases("warning", "train, val: all 4 images of val are also in train") == []
    assert len(result.record["findings"]) == 1


def test_classes_of_one_split_only(tmp_path: Path) -> None:
    file = make(tmp_path, names="[cat, dog, cow, owl, elk]")
    (tmp_path / "labels/train/0.txt").write_text("2 .5 .5 .5 .5\n")
    (tmp_path / "labels/val/0.txt").write_text("3 .5 .5 .5 .5\n")
    result = check(file, tmp_path / "out")
    assert result.code == 0
    assert result.cases("note", "1 class without a box anywhere") == ["elk"]
    assert result.cases("warning", "val: 1 class without a box in train") == ["owl"]
    assert result.cases("note", "val: 1 class of train without a box") == ["cow"]


def test_labels_missing_from_a_list_file_are_not_stray(tmp_path: Path) -> None:
    file = make(tmp_path, train="train.txt")
    (tmp_path / "train.txt").write_text("images/train/0.png\nimages/train/1.png\n")
    result = check(file, tmp_path / "out")
    assert result.record["findings"] == []
    assert result.record["splits"]["train"]["images"] == 2


def test_small_boxes_depend_on_the_image_size(tmp_path: Path) -> None:
    file = make(tmp_path)
    draw(tmp_path, "train/small", (640, 640), [(100, 100, 150, 150), (300, 300, 338, 338)])
    result = check(file, tmp_path / "large", "--imgsz", "640")
    assert result.record["findings"] == []
    result = check(file, tmp_path / "small", "--imgsz", "96")
    assert result.record["image_size"] == 96
    assert result.cases("note", "train: 2 boxes smaller than a cell of 8 px") == [
        "labels/train/small.txt: 2 boxes"
    ]
    result = check(file, tmp_path / "tiny", "--imgsz", "32")
    assert result.cases("note", "train: 1 box smaller than a cell") == [
        "labels/train/small.txt: 1 box"
    ]
    assert result.cases("warning", "train: 1 box with a side below 2 px") == [
        "labels/train/small.txt: 1 box"
    ]


def test_poor_anchors_are_reported(tmp_path: Path) -> None:
    spec = load_spec(Path("yolov5n.yaml")).with_anchors([(999.0, 999.0)] * 2 + [(1600.0, 1.0)])
    model = tmp_path / "model.yaml"
    model.write_text(yaml.safe_dump(spec.to_dict()))
    result = check(make(tmp_path), tmp_path / "out", "--cfg", str(model))
    assert result.code == 0
    assert result.record["anchors"] == [[999, 999], [999, 999], [1600, 1]]
    assert result.record["splits"]["train"]["best_possible_recall"] == 0
    assert result.cases("note", "train: best possible recall 0.0000 is not above 0.98") == []


def test_anchors_and_cells_of_models() -> None:
    assert read_anchor_grid("yolov5x.yaml", None).anchors.tolist()[::8] == [[10, 13], [373, 326]]
    assert read_anchor_grid("yolov5n6.yaml", None).anchors.shape == (12, 2)
    assert read_anchor_grid("yolov5n6.yaml", None).cell == 8


@requires_shared
def test_anchors_of_weights() -> None:
    grid = read_anchor_grid("yolov5n6.yaml", str(SHARED / "weights" / "yolov5n.pt"))
    np.testing.assert_allclose(grid.anchors, read_anchor_grid("yolov5n.yaml", None).anchors)


@requires_shared
def test_coco128(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLO_DATASETS_DIR", str(DATASETS))
    result = check("coco128.yaml", tmp_path)
    train = result.record["splits"]["train"]
    assert result.code == 0
    assert train["images"] == 128
    assert train["boxes"] == sum(train["boxes_per_class"]) == 929
    assert train["classes_used"] == sum(count > 0 for count in train["boxes_per_class"]) == 71
    assert train["backgrounds"] == 2
    assert result.cases("note", "train, val: 2 images without a box") == [
        "images/train2017/000000000250.jpg: a label file without boxes",
        "images/train2017/000000000508.jpg: a label file without boxes",
    ]


def test_json_option(tmp_path: Path) -> None:
    file, record = make(tmp_path), tmp_path / "deep" / "check.json"
    main([str(file), "--out", str(tmp_path / "out"), "--json", str(record)])
    assert json.loads(record.read_text(encoding="utf-8"))["can_start"] is True
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["check.png"]


def test_terminal_report_is_sorted_by_severity(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = make(tmp_path)
    (tmp_path / "labels/train/0.txt").write_text("")
    (tmp_path / "labels/train/1.txt").write_text(BOX + "7 .5 .5 .5 .5\n")
    for number in range(7):
        (tmp_path / f"labels/train/stray{number}.txt").write_text(BOX)
    with caplog.at_level("INFO", logger="yolo"):
        check(file, tmp_path / "out")
    lines = caplog.messages
    assert lines[0] == f"{file}: {tmp_path}, 2 classes, at 640 px"
    assert ["images", "4", "4"] in [line.split() for line in lines]
    assert ["boxes", "4", "4"] in [line.split() for line in lines]
    assert "classes of train: cat 2, dog 1" in lines
    start = lines.index("STOP  train: 1 box with a class out of range (classes are 0 to 1).")
    assert lines[start:-1] == [
        "STOP  train: 1 box with a class out of range (classes are 0 to 1).",
        "    labels/train/1.txt: class 7",
        "",
        "WARNING  7 label files without an image.",
        *(f"    labels/train/stray{number}.txt" for number in range(5)),
        "    … and 2 more",
        "",
        "NOTE  train: 1 image without a box, background.",
        "    images/train/0.png: a label file without boxes",
        "",
        "Training cannot start, or would skip files: 1 reason, 1 warning.",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.yaml"], "data-set file none.yaml does not exist"),
        (["coco128.yaml", "--imgsz", "16"], "--imgsz 16: must be between 32 and 32768"),
        (["coco128.yaml", "--cfg", "none.yaml"], "none.yaml"),
        (
            ["coco128.yaml", "--weights", "none.pt"],
            "weights file none.pt does not exist; give a .pt file",
        ),
    ],
)
def test_invalid_arguments(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_cfg_and_weights_are_mutually_exclusive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["coco128.yaml", "--cfg", "a.yaml", "--weights", "b.pt"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_help_shows_the_exit_codes_and_imports_nothing_slow() -> None:
    program = (
        "import sys, runpy; sys.argv = ['check', '--help']\n"
        "try: runpy.run_module('utils.tools.check', run_name='__main__', alter_sys=True)\n"
        "finally: print(sorted({'torch', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "1  training cannot start or would skip files" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
