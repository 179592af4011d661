"""An export of a labelling tool becomes a trained model with two commands."""

import logging
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.toy import make_toy_model
from tests.utils.datasets.drawn import draw
from train import train
from utils.history import read_results
from utils.options.parser import parse_request
from utils.tools.convert.__main__ import main as convert

WIDTH, HEIGHT = 64, 48
BOX = (8, 8, 32, 24)  # px
XML = (
    "<annotation><folder>images</folder><filename>{name}</filename><size><width>64</width>"
    "<height>48</height><depth>3</depth></size><object><name>{kind}</name><bndbox><xmin>9</xmin>"
    "<ymin>9</ymin><xmax>32</xmax><ymax>24</ymax></bndbox></object></annotation>"
)
TRAINING = "--weights '' --imgsz 64 --batch-size 4 --epochs 1 --workers 0 --device cpu --noplots"


def draw_into(folder: Path, stem: str) -> str:
    """Write an image with a white rectangle in BOX; return its name."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = draw(folder.parent / "drawn", stem, (HEIGHT, WIDTH), [BOX])
    return drawn.rename(folder / drawn.name).name


def kangaroo(folder: Path) -> list[str]:
    """images/00001.png and annots/00001.xml; no splits; one image without an XML file."""
    (folder / "annots").mkdir(parents=True)
    for i in range(12):
        name = draw_into(folder / "images", f"{i:05d}")
        if i:
            xml = XML.format(name=name, kind="kangaroo")
            (folder / "annots" / f"{i:05d}.xml").write_text(xml)
    return ["voc", str(folder / "images"), str(folder / "annots")]


def raccoon(folder: Path) -> list[str]:
    """images/, and data/ with a table of all boxes and tables for training and test."""
    rows = []
    for i in range(1, 13):
        name = draw_into(folder / "images", f"raccoon-{i}")
        rows.append(f"{name},{WIDTH},{HEIGHT},raccoon,{','.join(map(str, BOX))}\n")
    (folder / "data").mkdir()
    header = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    for name, part in (("raccoon", rows), ("train", rows[:9]), ("test", rows[9:])):
        (folder / "data" / f"{name}_labels.csv").write_text(header + "".join(part))
    return ["csv", str(folder / "data"), "--images", str(folder / "images")]


@pytest.mark.parametrize(
    ("make", "sizes"),
    [(kangaroo, {"train": 10, "val": 2}), (raccoon, {"train": 7, "val": 2, "test": 3})],
)
def test_two_commands(
    make: Callable[[Path], list[str]],
    sizes: dict[str, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The second command is the one that the first one prints, with a small model."""
    caplog.set_level(logging.INFO, "yolo")
    monkeypatch.setenv("YOLO_DATASETS_DIR", str(tmp_path / "sets"))
    (tmp_path / "sets").mkdir()
    convert(make(tmp_path / make.__name__))
    out = tmp_path / "sets" / f"{make.__name__}-yolo"
    found = {
        split: len((out / f"{split}.txt").read_text().splitlines())
        if (out / f"{split}.txt").exists()
        else len(list((out / "images" / split).iterdir()))
        for split in sizes
    }
    assert found == sizes
    (line,) = (line.strip() for line in caplog.messages if "python train.py" in line)
    assert line.startswith(f"python train.py --data {out / 'data.yaml'} ")
    small = ["--cfg", str(make_toy_model(tmp_path)), "--project", str(tmp_path / "runs")]
    run = train(parse_request([*shlex.split(line)[2:], *shlex.split(TRAINING), *small]))
    assert len(read_results(run / "results.csv")) == 1
    assert (run / "weights" / "best.pt").is_file()
