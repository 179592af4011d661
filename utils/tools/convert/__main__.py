"""Convert the original annotations of a data set to YOLO labels. Images are linked, not copied.

Usage: python -m utils.tools.convert voc IMAGES XMLS --out FOLDER
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from utils.errors import UserError
from utils.options.arguments import add_options, options_from
from utils.options.option import REQUIRED, check, option
from utils.options.script import OptionParser, run_script

log = logging.getLogger("yolo")

NOTHING_FOR_TRAINING = 1
"""Exit code."""

# Slow imports are in the functions that need them, so that --help is fast.
if TYPE_CHECKING:
    from utils.tools.convert.annotated import Conversion


@dataclass(frozen=True)
class CityPersonsOptions:
    """Options for CityPersons."""

    source: Path = option(REQUIRED, "folder with anno_train.mat and anno_val.mat", positional=True)
    images: Path | None = option(
        None,
        "folder with Cityscapes' leftImg8bit/ (default: the folder of the annotations)",
        metavar="FOLDER",
    )
    classes: str = option(
        "pedestrian",
        "classes to keep, in the order of their labels, from pedestrian,rider,sitting,other,group; "
        "other classes become ignore regions (default: {default})",
        metavar="A,B",
    )
    visible: bool = option(False, "use the boxes of the visible parts")
    # The defaults are those of the benchmark's widest subset, All, which contains the others.
    min_height: float = option(
        20.0,
        "minimum height of a person; lower ones become ignore regions; the benchmark uses 20 in "
        "subset All, 50 in Reasonable (default: {default:g})",
        metavar="PX",
        minimum=0,
    )
    min_visibility: float = option(
        0.2,
        "minimum visible fraction of a pedestrian or rider; less visible ones become ignore "
        "regions; the benchmark uses 0.2 in All, 0.65 in Reasonable (default: {default:g})",
        metavar="SHARE",
        minimum=0,
        maximum=1,
    )

    def __post_init__(self) -> None:
        check(self)

    def read(self) -> Conversion:
        """Read the annotations."""
        from utils.tools.convert.citypersons import LabelFilter, parse_classes, read_citypersons

        label_filter = LabelFilter(
            parse_classes(self.classes), self.visible, self.min_height, self.min_visibility
        )
        return read_citypersons(self.source, self.images or self.source, label_filter)


CLASSES_HELP = (
    "classes to keep, in the order of their labels; other classes become ignore regions "
    "(default: all)"
)
GENERIC = re.compile(
    "annot(ation)?s|data|dataset|export|images|imgs|jpegimages|labels|test|train|val|valid|xmls"
)
"""Names of folders that do not say which data set is in them."""


@dataclass(frozen=True)
class VocOptions:
    """Options for annotations in Pascal VOC format."""

    source: Path = option(
        REQUIRED,
        "folder of the images, or of a data set with Annotations/, or a VOCdevkit",
        positional=True,
    )
    annotations: Path | None = option(
        None, "folder of the XML files (default: that of the images)", positional=True
    )
    classes: str = option("", CLASSES_HELP, metavar="A,B")

    def read(self) -> Conversion:
        """Read the annotations."""
        from utils.tools.convert.voc import read_voc

        return read_voc(self.source, self.annotations, self.classes)


@dataclass(frozen=True)
class ToolExportOptions:
    """Options for the exports of labelling tools in other formats."""

    source: Path = option(
        REQUIRED, "folder of the export, or its JSON or CSV file", positional=True
    )
    images: Path | None = option(
        None,
        "folder of the images, in any subfolders (default: that of the source)",
        metavar="FOLDER",
    )
    classes: str = option("", CLASSES_HELP, metavar="A,B")


def _read_coco(options: ToolExportOptions) -> Conversion:
    from utils.tools.convert.coco import read_coco

    return read_coco(options.source, options.images, options.classes)


def _read_csv(options: ToolExportOptions) -> Conversion:
    from utils.tools.convert.csv_table import read_csv

    return read_csv(options.source, options.images, options.classes)


def _read_yolo(options: ToolExportOptions) -> Conversion:
    from utils.tools.convert.yolo import read_yolo

    return read_yolo(options.source, options.images, options.classes)


@dataclass(frozen=True)
class SplitOptions:
    """Options for annotations without a validation split."""

    val_share: float | None = option(
        None,
        "fraction of the images for validation, if the annotations have no validation split; "
        "chosen by class (default: 0.2)",
        metavar="SHARE",
        minimum=0.001,
        maximum=0.999,
    )
    group: bool = option(
        False,
        "keep images whose names differ only in the last number, as in a video, in one split",
    )
    seed: int = option(0, "random seed of the choice", minimum=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class OutputOptions:
    """Options for the output, in all formats."""

    out: Path | None = option(
        None,
        "output folder of the data set (default: the folder that data/*.yaml names, or "
        "../datasets/NAME-yolo)",
        metavar="FOLDER",
    )
    allow_missing_images: bool = option(False, "write labels even if images are missing")


class AnnotationFormat(NamedTuple):
    """An annotation format."""

    help: str
    options: type
    read: Callable[[Any], Conversion]
    """Reads the annotations that the options name."""
    from_file: bool = False
    """Whether the source may be a file."""
    published: tuple[str, str] = ("", "")
    """What the source of the published data set contains, and its output folder, named by
    data/*.yaml, below the folder of data sets."""


FORMATS = {
    "citypersons": AnnotationFormat(
        "CityPersons' .mat files",
        CityPersonsOptions,
        CityPersonsOptions.read,
        published=("*", "citypersons"),
    ),
    "coco": AnnotationFormat(
        "JSON in COCO format",
        ToolExportOptions,
        _read_coco,
        from_file=True,
        published=("annotations/instances_*2017.json", "coco"),
    ),
    "csv": AnnotationFormat(
        "a table with a row per box", ToolExportOptions, _read_csv, from_file=True
    ),
    "voc": AnnotationFormat(
        "XML files in Pascal VOC format",
        VocOptions,
        VocOptions.read,
        published=("VOC20??/Annotations", "VOC"),
    ),
    "yolo": AnnotationFormat("text files in YOLO format", ToolExportOptions, _read_yolo),
}


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser of this program."""
    parser = OptionParser(
        prog="python -m utils.tools.convert",
        description="Convert original annotations to YOLO labels, ignore regions and a data-set "
        "file. Images are linked, not copied. Converting again replaces what was converted before. "
        "Exit code 1: there is nothing for training.",
    )
    metavar = "{" + ",".join(FORMATS) + "}"
    forms = parser.add_subparsers(dest="form", required=True, metavar=metavar)
    for name, form in FORMATS.items():
        subparser = forms.add_parser(name, help=form.help)
        add_options(subparser, form.options)
        if form.options is not CityPersonsOptions:
            add_options(subparser, SplitOptions)
        add_options(subparser, OutputOptions)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and convert."""
    given = vars(build_parser().parse_args(argv))
    form = FORMATS[given["form"]]
    source: Any = options_from(given, form.options)
    output, rule = options_from(given, OutputOptions), options_from(given, SplitOptions)
    if not source.source.is_dir() and not (form.from_file and source.source.is_file()):
        kind = "the file or folder" if form.from_file else "the folder"
        raise UserError(f"{source.source} is not a folder; give {kind} of the annotations.")

    from utils.datasets.locate import find_root
    from utils.tools.convert.made_files import SOURCE, require_same_source
    from utils.tools.convert.output import log_next_steps, write_dataset
    from utils.tools.convert.splitting import SplitRule, divide, without_repeats

    out = output.out or find_root(f"../datasets/{_output_name(form, source.source)}", Path.cwd())
    origin = str(source.source.resolve())
    if output.out is None:
        require_same_source(out, origin)
    conversion = form.read(source)
    settings = {**conversion.settings, SOURCE: origin}
    conversion = replace(conversion, splits=without_repeats(conversion.splits))
    if form.options is not CityPersonsOptions:
        splits = divide(conversion.splits, SplitRule(rule.val_share, rule.group, rule.seed))
        settings |= asdict(rule)
        conversion = replace(conversion, splits=splits)
    conversion = replace(conversion, settings=settings)
    tallies = write_dataset(conversion, out, allow_missing_images=output.allow_missing_images)
    boxes = {t.split: t.boxes.total() for t in tallies}
    if not any(boxes[split.name] for split in conversion.splits if split.role == "train"):
        names = ", ".join(boxes)
        log.warning("There is nothing for training: no split for training has a box (%s).", names)
        raise SystemExit(NOTHING_FOR_TRAINING)
    log_next_steps(out / "data.yaml")


def _output_name(form: AnnotationFormat, source: Path) -> str:
    """Return the name of the default output folder."""
    pattern, name = form.published
    if pattern and any(next(source.glob(inner + pattern), None) for inner in ("", "*/")):
        return name
    folder = source.resolve() if source.is_dir() else source.resolve().parent
    while GENERIC.fullmatch(folder.name.lower()) and folder.parent.name:
        folder = folder.parent
    return f"{folder.name}-yolo"


if __name__ == "__main__":
    run_script(main)
