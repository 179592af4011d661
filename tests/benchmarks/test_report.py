import argparse
import json
import logging
from pathlib import Path

import pytest

from benchmarks.report import add_common_options, compare, table
from benchmarks.timing import Measure, Measurements, Spread
from utils.errors import UserError

RESULTS = {
    "A": {"work, ms": Spread(2.0, 1.0, 3.0), "waste, ms": Spread(0.0, 0.0, 0.0)},
    "B": {"work, ms": Spread(3.0, 3.0, 3.0), "images/s": Spread(1234.5678, 1.0, 2e6)},
}


def test_table_has_a_line_for_each_metric() -> None:
    assert [" ".join(line.split()) for line in table(RESULTS).splitlines()] == [
        "A: median (min - max) B: median (min - max) B/A",
        "work, ms 2 (1 - 3) 3 (3 - 3) 1.5",
        "waste, ms 0 (0 - 0) - -",
        "images/s - 1235 (1 - 2e+06) -",
    ]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="toy.py")
    parser.add_argument("--work", type=float, default=2.0)
    add_common_options(parser, rounds=2, against="--work 5")
    return parser


def prepare(args: argparse.Namespace) -> Measure:
    def measure() -> Measurements:
        return {"work, ms": args.work}

    return measure


@pytest.mark.parametrize(
    ("options", "variants", "ratios"),
    [
        ([], {"A": "the default options", "B": "A --work 5"}, {"B": {"work, ms": 2.5}}),
        (["--against="], {"A": "--against="}, {}),
        (
            ["--work=4", "--against=--work=2", "--against=--work=1"],
            {
                "A": "--work=4 --against=--work=2 --against=--work=1",
                "B": "A --work=2",
                "C": "A --work=1",
            },
            {"B": {"work, ms": 0.5}, "C": {"work, ms": 0.25}},
        ),
    ],
)
def test_variants_add_options_to_the_command_line(
    options: list[str],
    variants: dict[str, str],
    ratios: dict[str, dict[str, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "toy.json"
    monkeypatch.setattr("sys.argv", ["toy.py", *options])
    # --json is set as a default, so that it is not part of the description of the variants
    monkeypatch.setattr("benchmarks.report.load_per_core", lambda: 0.0)
    program = parser()
    program.set_defaults(json=file)
    compare(program, prepare)
    written = json.loads(file.read_text(encoding="utf-8"))
    assert (written["program"], written["rounds"]) == ("toy.py", 2)
    assert written["variants"] == variants
    assert written["ratios"] == ratios
    assert written["figures"].keys() == variants.keys()
    assert written["machine"]["cores"] >= 1


def test_busy_machine_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["toy.py"])
    monkeypatch.setattr("benchmarks.report.load_per_core", lambda: 0.31)
    monkeypatch.setattr(logging.getLogger("yolo"), "propagate", True)
    compare(parser(), prepare)
    assert "The machine was busy before the start: expect results that are too slow." in caplog.text


def test_zero_rounds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["toy.py", "--rounds", "0"])
    with pytest.raises(UserError, match=r"^--rounds 0: must be at least 1\.$"):
        compare(parser(), prepare)
