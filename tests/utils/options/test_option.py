import argparse
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_type_hints

import pytest

from tests.paths import ROOT
from utils.errors import UserError
from utils.options.arguments import add_options, options_from, parse_options
from utils.options.detect_options import DetectOptions
from utils.options.export_options import ExportOptions
from utils.options.option import REQUIRED, OnResume, check, option, option_names, options_of
from utils.options.resumed_options import resumed_options
from utils.options.script import OptionParser
from utils.options.train_options import Continuation, TrainOptions, TrainRequest
from utils.options.val_options import ValOptions
from utils.tools.check.__main__ import CheckOptions
from utils.tools.compare.__main__ import CompareOptions
from utils.tools.convert.__main__ import (
    CityPersonsOptions,
    OutputOptions,
    SplitOptions,
    ToolExportOptions,
    VocOptions,
)
from utils.tools.inspect.__main__ import InspectOptions
from utils.tools.miss_rate import MissRateOptions

ALL = (
    *(TrainOptions, Continuation, ValOptions, DetectOptions, ExportOptions, CheckOptions),
    *(CompareOptions, InspectOptions, MissRateOptions, CityPersonsOptions, ToolExportOptions),
    *(VocOptions, SplitOptions, OutputOptions),
)


@dataclass(frozen=True)
class MoreOptions(TrainOptions):
    """The options of a run and one more, which is declared only here."""

    blur_radius: float = option(
        1.5, "px (default {default:.2f})", minimum=0, below=9, resume=OnResume.ALLOWABLE
    )


@dataclass(frozen=True)
class Meal:
    """One option of each kind."""

    guests: list[str] = option(REQUIRED, "who comes", metavar="GUEST", positional=True)
    place: Path = option(REQUIRED, "where")
    courses: int = option(3, "how many", flags=("--plates",), minimum=1, group="food")
    wine: str | None = option(None, "colour", choices=("red", "white"), const="red")
    salt: float = option(0.5, "g", minimum=0, maximum=1, exclusive="taste")
    sugar: float = option(0.0, "g", below=1, minimum=0, exclusive="taste")
    hours: list[int] = option([19, 20], "from, to", minimum=0)
    spicy: bool = option(False, "hot")
    music: bool = option(True, "loud", resume=OnResume.FREE)
    without: frozenset[str] = option(frozenset(), "leave these out")
    sauce: Literal[1, 2] | None = option(None, "which")

    def __post_init__(self) -> None:
        check(self)


def parser_of(options: type) -> argparse.ArgumentParser:
    parser = OptionParser(prog="meal.py")
    add_options(parser, options)
    return parser


def parse(line: str) -> Meal:
    return parse_options(parser_of(Meal), Meal, line.split())


def test_option_is_declared_in_one_place() -> None:
    """The declaration adds it to the parser, the checks and the rules for resuming."""
    assert "px (default 1.50)\n" in parser_of(MoreOptions).format_help()
    options = parse_options(parser_of(MoreOptions), MoreOptions, ["--blur-radius", "2"])
    assert options == MoreOptions(blur_radius=2.0)
    with pytest.raises(UserError, match=r"--blur-radius 9: must be at least 0 and less than 9\."):
        MoreOptions(blur_radius=9)
    given, saved = frozenset({"blur_radius"}), MoreOptions().to_dict()
    with pytest.raises(UserError, match=r"2\.0 differs .* 1\.5; .* --allow-change blur-radius"):
        resumed_options(TrainRequest(options, given, Continuation(resume="")), saved)
    allowing = TrainRequest(options, given, Continuation("", allow_change=given))
    assert resumed_options(allowing, saved) == (options, given)
    with pytest.raises(UserError, match=r"--allow-change x: choose one or more of .*blur-radius,"):
        TrainRequest(options, given, Continuation("", allow_change=frozenset({"x"})))


def test_types_and_defaults_come_from_the_fields() -> None:
    assert parse("ann bob --place inn") == Meal(["ann", "bob"], Path("inn"))
    line = "ann --place inn --plates 2 --wine --sugar 0.1 --hours 21 --spicy --no-music"
    assert parse(f"{line} --without=--pork-ribs,nuts --sauce 2") == Meal(
        guests=["ann"],
        place=Path("inn"),
        courses=2,
        wine="red",
        sugar=0.1,
        hours=[21],
        spicy=True,
        music=False,
        without=frozenset({"pork_ribs", "nuts"}),
        sauce=2,
    )
    assert Meal.courses == 3
    assert Meal([], Path()).hours is not Meal([], Path()).hours


def test_positional_option_with_a_default() -> None:
    assert parse_options(parser_of(VocOptions), VocOptions, ["a"]) == VocOptions(Path("a"))
    both = parse_options(parser_of(VocOptions), VocOptions, ["a", "b", "--classes", "x"])
    assert both == VocOptions(Path("a"), Path("b"), "x")


def test_help() -> None:
    text = parser_of(Meal).format_help()
    assert "[--salt SALT | --sugar SUGAR]" in text
    assert "how many (default: 3)\n" in text
    assert "hot\n" in text  # no default of a flag
    before, after = text.split("\nfood:\n")
    assert "--place" in before.split("\noptions:\n")[1]
    assert "--courses" in after
    assert "--sauce" in after  # the title covers all options after it


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--courses 0", "--courses 0: must be at least 1."),
        ("--salt 1.5", "--salt 1.5: must be between 0 and 1."),
        ("--salt nan", "--salt nan: must be between 0 and 1."),
        ("--sugar 1", "--sugar 1.0: must be at least 0 and less than 1."),
        ("--hours 19 -1", "--hours -1: must be at least 0."),
    ],
)
def test_bounds(options: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        parse(f"ann --place inn {options}")
    assert str(error.value) == sentence
    for within in ("--courses 1", "--salt 1", "--salt 0", "--sugar 0.99", "--hours 0"):
        parse(f"ann --place inn {within}")


def test_choices_are_checked_without_a_parser() -> None:
    with pytest.raises(UserError, match=r"^--wine green: choose one of red, white\.$"):
        Meal([], Path(), wine="green")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--place inn", "the following arguments are required: GUEST"),
        ("ann", "the following arguments are required: --place"),
        ("ann --place inn --salt 0 --sugar 0", "--sugar: not allowed with argument --salt"),
        ("ann --place inn --wine green", "invalid choice: 'green'"),
        ("ann --place inn --courses few", "invalid int value: 'few'"),
    ],
)
def test_argparse_errors(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(line)
    assert message in capsys.readouterr().err


def test_parser_can_omit_options_that_are_not_given() -> None:
    parser = OptionParser(argument_default=argparse.SUPPRESS)
    add_options(parser, TrainOptions)
    given = vars(parser.parse_args(["--epochs", "2"]))
    assert given == {"epochs": 2}
    assert options_from({**given, "of_another": 1}, TrainOptions) == TrainOptions(epochs=2)


def test_no_option_is_declared_elsewhere() -> None:
    """The argparse namespace stays in the module that parses it, too."""
    sources = [
        *(ROOT / "utils").rglob("*.py"),
        *(ROOT / f"{s}.py" for s in ("train", "val", "detect")),
    ]
    texts = {path.name: path.read_text(encoding="utf-8") for path in sources}
    assert [name for name, text in texts.items() if "add_argument(" in text] == ["arguments.py"]
    assert [name for name, text in texts.items() if "Namespace" in text] == []


@pytest.mark.parametrize("options", ALL)
def test_every_field_has_a_help_text(options: type) -> None:
    assert [
        f.name for f in dataclasses.fields(options) if not options_of(options)[f.name].help
    ] == []


@pytest.mark.parametrize(
    ("options", "name"),
    [(o, name) for o in ALL for name, one in options_of(o).items() if one.minimum is not None],
)
def test_every_minimum_is_checked(options: type, name: str) -> None:
    """Detects a dataclass that declares a bound but does not call `check`."""
    minimum = options_of(options)[name].minimum
    assert minimum is not None
    required = [None for f in dataclasses.fields(options) if f.default is f.default_factory]
    below = [minimum - 1] if isinstance(getattr(options, name, []), list) else minimum - 1
    with pytest.raises(UserError, match=name.replace("_", "-")):
        options(*required, **{name: below})


def test_options_that_may_change_on_resume() -> None:
    of_the_command = {"device", "exist_ok", "nosave", "noval", "noplots"}
    of_the_command |= {"close_mosaic", "max_hours", "stop_after"}
    assert option_names(TrainOptions, OnResume.NOT_INHERITED) == of_the_command
    assert option_names(TrainOptions, OnResume.FREE) == {
        *("compile", "workers", "cache", "patience", "project", "name"),
        *("save_period", "save_steps", "seam_epochs", "max_bad_steps", "average", "export_yolov5"),
    }
    assert option_names(TrainOptions, OnResume.ALLOWABLE) == {
        *("data", "hyp", "batch_size", "nominal_batch_size", "imgsz", "optimizer", "seed"),
        *("freeze", "freeze_bn", "rect", "multi_scale", "label_smoothing", "amp"),
        *("clip_grad_norm", "sync_bn"),
    }
    assert option_names(TrainOptions, OnResume.FIXED) == {
        *("weights", "cfg", "epochs", "single_cls", "cos_lr", "noautoanchor"),
    }


def numbers_of(kind: type) -> list[str]:
    hints = get_type_hints(kind)
    types = {name: str(hints[name]) for name in options_of(kind)}
    return [n for n, t in types.items() if "int" in t or "float" in t]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in (TrainOptions, ValOptions, DetectOptions)
        for name in numbers_of(kind)
    ],
)
@pytest.mark.parametrize("value", [2**70, -(2**70), math.inf, math.nan])
def test_every_number_is_bounded(kind: type, name: str, value: float) -> None:
    wrong = [value] if isinstance(getattr(kind(), name), list) else value
    flag = "--" + name.replace("_", "-")
    with pytest.raises(UserError, match=f"^{flag} [^ ]+: (must be|choose one of) "):
        kind(**{name: wrong})


def test_largest_values_are_accepted() -> None:
    assert TrainOptions(seed=2**64 - 1).seed == 2**64 - 1
    assert TrainOptions(patience=10**9, imgsz=32_768, workers=1024).patience == 10**9


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((TrainOptions, n) for n in ("weights", "cfg", "data", "hyp", "project", "name")),
        *((ValOptions, n) for n in ("weights", "data", "project", "name")),
        *((DetectOptions, n) for n in ("weights", "source", "project", "name")),
        (Continuation, "resume"),
    ],
)
def test_path_that_is_too_long_is_one_sentence(kind: type, name: str) -> None:
    kind(**{name: "a/" + "n" * 255})
    for path in ("n" * 256, "é" * 128, "a/" + "n" * 256 + "/b", "n/" * 2048):
        with pytest.raises(UserError, match=f"^--{name} .{{40}}…: is too long; use a shorter path"):
            kind(**{name: path})
    kind(**{name: "https://host/x?token=" + "n" * 300})
