"""The options of the scripts are frozen: every new, removed or changed option changes this file.

Names and defaults are those of YOLOv5 v7.0, except for the `_OWN` options and the defaults in
`CHANGED`. Other options of YOLOv5 are not supported, so argparse rejects them.
"""

import argparse
import importlib

import pytest

from utils.options.train_options import TrainOptions

# option -> default
TRAIN = {
    "--weights": "yolov5s.pt",
    "--cfg": "",
    "--data": "data/coco128.yaml",
    "--hyp": "data/hyps/hyp.scratch-low.yaml",
    "--epochs": 100,
    "--batch-size": 16,
    "--imgsz": 640,
    "--img": 640,
    "--img-size": 640,
    "--rect": False,
    "--resume": None,
    "--nosave": False,
    "--noval": False,
    "--noautoanchor": False,
    "--noplots": False,
    "--cache": None,
    "--device": "",
    "--multi-scale": False,
    "--single-cls": False,
    "--optimizer": "SGD",
    "--workers": 8,
    "--project": "runs/train",
    "--name": "exp",
    "--exist-ok": False,
    "--cos-lr": False,
    "--label-smoothing": 0.0,
    "--patience": 100,
    "--freeze": [0],
    "--save-period": -1,
    "--seed": 0,
    "--sync-bn": False,
}
TRAIN_OWN = {
    "--freeze-bn": False,
    "--amp": "auto",
    "--compile": False,
    "--no-compile": False,
    "--nominal-batch-size": 64,
    "--extend-epochs": None,
    "--lr-continuation": "rebase",
    "--slope": "fit",
    "--lrf": None,
    "--peak": None,
    "--rewarm-epochs": 0,
    "--cooldown-epochs": 0,
    "--cooldown-shape": "linear",
    "--finish-epochs": None,
    "--close-mosaic": 0,
    "--auto-resume": False,
    "--stop-after": None,
    "--max-hours": None,
    "--plan": False,
    "--schedule": None,
    "--completed-epochs": None,
    "--allow-partial-state": False,
    "--average": 0,
    "--export-yolov5": False,
    "--no-export-yolov5": False,
    "--seam-epochs": 5,
    "--save-steps": 0,
    "--clip-grad-norm": 10.0,
    "--max-bad-steps": 10,
    "--allow-change": frozenset(),
    "--rename-class": [],
}

VAL = {
    "--data": "data/coco128.yaml",
    "--weights": ["yolov5s.pt"],
    "--batch-size": 32,
    "--imgsz": 640,
    "--img": 640,
    "--img-size": 640,
    "--conf-thres": 0.001,
    "--iou-thres": 0.6,
    "--max-det": 300,
    "--task": "val",
    "--device": "",
    "--workers": 8,
    "--single-cls": False,
    "--augment": False,
    "--verbose": False,
    "--save-txt": False,
    "--save-conf": False,
    "--save-json": False,
    "--project": "runs/val",
    "--name": "exp",
    "--exist-ok": False,
    "--half": False,
}
VAL_OWN = {"--noplots": False, "--miss-rate": False}

DETECT = {
    "--weights": ["yolov5s.pt"],
    "--source": "data/images",
    "--data": "data/coco128.yaml",
    "--imgsz": [640],
    "--img": [640],
    "--img-size": [640],
    "--conf-thres": 0.25,
    "--iou-thres": 0.45,
    "--max-det": 1000,
    "--device": "",
    "--view-img": False,
    "--save-txt": False,
    "--save-conf": False,
    "--save-crop": False,
    "--save-csv": False,  # this one and the next are newer than v7.0
    "--save-format": 0,
    "--nosave": False,
    "--classes": None,
    "--agnostic-nms": False,
    "--augment": False,
    "--project": "runs/detect",
    "--name": "exp",
    "--exist-ok": False,
    "--line-thickness": 3,
    "--hide-labels": False,
    "--hide-conf": False,
    "--half": False,
    "--vid-stride": 1,
}
DETECT_OWN = {"--batch-size": 1}

EXPORT = {
    "--data": "data/coco128.yaml",
    "--weights": "yolov5s.pt",
    "--imgsz": [640],
    "--img": [640],
    "--img-size": [640],
    "--batch-size": 1,
    "--device": "cpu",
    "--half": False,
    "--optimize": False,
    "--dynamic": False,
    "--simplify": False,
    "--opset": 17,
    "--nms": False,
    "--topk-per-class": 100,
    "--iou-thres": 0.45,
    "--conf-thres": 0.25,
    "--include": ["torchscript"],
}
EXPORT_OWN = {"--heads": "decoded"}

# script and option -> default, where it differs from YOLOv5 intentionally
CHANGED = {
    ("train", "--data"): "data/streets.yaml",  # generated: a first run needs no download
    ("train", "--hyp"): "hyp/hyp.scratch-low.yaml",  # the same file, with a shorter path
    ("train", "--workers"): None,  # as many as help, of the machine instead of the process
    ("val", "--workers"): None,
    ("val", "--data"): "coco128.yaml",  # looked up in data/ by its name
    ("detect", "--source"): None,  # of several; that of the dataclass is ["data/images"]
    ("detect", "--data"): "",  # class names come from the weights
    ("export", "--data"): "",  # images are drawn by the program
}

FROZEN = {"train": TRAIN | TRAIN_OWN, "val": VAL | VAL_OWN, "detect": DETECT | DETECT_OWN}
FROZEN["export"] = EXPORT | EXPORT_OWN


def build(program: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = importlib.import_module(program).build_parser()
    return parser


def actions(program: str) -> dict[str, argparse.Action]:
    """Actions by option string, without --help."""
    return {
        flag: action
        for action in build(program)._actions
        if not isinstance(action, argparse._HelpAction)
        for flag in action.option_strings
    }


@pytest.mark.parametrize("program", FROZEN)
def test_option_list_is_frozen(program: str) -> None:
    assert sorted(actions(program)) == sorted(FROZEN[program])


@pytest.mark.parametrize("program", FROZEN)
def test_defaults_are_frozen(program: str) -> None:
    expected = {
        flag: CHANGED.get((program, flag), default) for flag, default in FROZEN[program].items()
    }
    found = {flag: default_of(program, action) for flag, action in actions(program).items()}
    assert found == expected


def default_of(program: str, action: argparse.Action) -> object:
    """The parser of train.py has no defaults; those of its dataclasses apply."""
    if program != "train":
        return action.default
    from utils.options.train_options import Continuation

    source = Continuation() if hasattr(Continuation(), action.dest) else TrainOptions()
    return getattr(source, action.dest)


@pytest.mark.parametrize("program", FROZEN)
def test_nothing_is_positional_and_everything_has_help(program: str) -> None:
    parser = build(program)
    assert all(action.option_strings for action in parser._actions)
    assert all(action.help for action in parser._actions)
    assert "%(" not in parser.format_help()


@pytest.mark.parametrize(
    ("program", "argv", "dest", "value"),
    [
        ("train", ["--resume"], "resume", ""),
        ("train", ["--resume", "a/last.pt"], "resume", "a/last.pt"),
        ("train", ["--cache"], "cache", "ram"),
        ("train", ["--cache", "disk"], "cache", "disk"),
        ("train", ["--freeze", "10"], "freeze", [10]),
        ("train", ["--freeze", "0", "1"], "freeze", [0, 1]),
        ("train", ["--img", "320"], "imgsz", 320),
        ("train", ["--img-size", "320"], "imgsz", 320),
        ("train", ["--weights", ""], "weights", ""),
        ("train", ["--optimizer", "AdamW"], "optimizer", "AdamW"),
        ("val", ["--img", "320"], "imgsz", 320),
        ("val", ["--task", "speed"], "task", "speed"),
        ("val", ["--iou", "0.65"], "iou_thres", 0.65),
        ("val", ["--weights", "a.pt", "b.pt"], "weights", ["a.pt", "b.pt"]),
        ("detect", ["--img", "640", "480"], "imgsz", [640, 480]),
        ("detect", ["--classes", "0", "2"], "classes", [0, 2]),
        ("detect", ["--source", "0"], "source", ["0"]),
        ("detect", ["--source", "a", "b", "--source", "c"], "source", ["a", "b", "c"]),
        ("detect", ["--conf", "0.5"], "conf_thres", 0.5),
        ("export", ["--include", "torchscript", "onnx"], "include", ["torchscript", "onnx"]),
        ("export", ["--img", "640", "480"], "imgsz", [640, 480]),
    ],
)
def test_upstream_command_lines_parse(
    program: str, argv: list[str], dest: str, value: object
) -> None:
    assert getattr(build(program).parse_args(argv), dest) == value


@pytest.mark.parametrize(
    ("program", "argv"),
    [
        ("train", ["--optimizer", "LION"]),
        ("train", ["--lr-continuation", "guess"]),
        ("train", ["--evolve"]),
        ("val", ["--task", "study"]),
        ("val", ["--no-such-option"]),
        ("detect", ["--visualize"]),
        ("detect", ["--save-format", "2"]),
        ("export", ["--include", "coreml"]),
    ],
)
def test_unsupported_options_are_errors(
    program: str, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        build(program).parse_args(argv)
    assert stop.value.code == 2
    assert argv[0] in capsys.readouterr().err
