"""Convert the original annotations of a data set to YOLO labels. Images are linked, not copied.

Usage: python -m utils.tools.convert citypersons ANNOTATIONS --images CITYSCAPES
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from utils.errors import UserError
from utils.options.arguments import add_options, options_from
from utils.options.option import REQUIRED, check, option
from utils.options.script import OptionParser, run_script

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


@dataclass(frozen=True)
class CocoOptions:
    """Options for annotations in COCO format."""

    source: Path = option(REQUIRED, "folder with annotations/instances_SPLIT.json", positional=True)
    images: Path | None = option(
        None, "folder with SPLIT/ or images/SPLIT/ (default: the source)", metavar="FOLDER"
    )

    def read(self) -> Conversion:
        """Read the annotations."""
        from utils.tools.convert.coco import read_coco

        return read_coco(self.source, self.images or self.source)


@dataclass(frozen=True)
class VocOptions:
    """Options for annotations in Pascal VOC format."""

    source: Path = option(
        REQUIRED, "folder with Annotations/, or a VOCdevkit with several years", positional=True
    )
    classes: str = option(
        "",
        "classes to keep, in the order of their labels; other classes become ignore regions "
        "(default: all, in alphabetical order)",
        metavar="A,B",
    )

    def read(self) -> Conversion:
        """Read the annotations."""
        from utils.tools.convert.voc import read_voc

        names = [name.strip() for name in self.classes.split(",") if name.strip()]
        return read_voc(self.source, names)


@dataclass(frozen=True)
class OutputOptions:
    """Options for the output, in all formats."""

    out: Path | None = option(
        None,
        "output folder of the data set (default: the folder that data/*.yaml names)",
        metavar="FOLDER",
    )
    allow_missing_images: bool = option(False, "write labels even if images are missing")


class AnnotationFormat(NamedTuple):
    """An annotation format."""

    help: str
    options: type[CityPersonsOptions | CocoOptions | VocOptions]
    folder: str
    """Default output folder, named by data/*.yaml, below the folder of data sets."""


FORMATS = {
    "citypersons": AnnotationFormat("CityPersons' .mat files", CityPersonsOptions, "citypersons"),
    "coco": AnnotationFormat("instances_*.json files in COCO format", CocoOptions, "coco"),
    "voc": AnnotationFormat("XML files with ImageSets, in Pascal VOC format", VocOptions, "VOC"),
}


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser of this program."""
    parser = OptionParser(
        prog="python -m utils.tools.convert",
        description="Convert original annotations to YOLO labels, ignore regions and a data-set "
        "file. Images are linked, not copied.",
    )
    metavar = "{" + ",".join(FORMATS) + "}"
    forms = parser.add_subparsers(dest="form", required=True, metavar=metavar)
    for name, form in FORMATS.items():
        subparser = forms.add_parser(name, help=form.help)
        add_options(subparser, form.options)
        add_options(subparser, OutputOptions)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and convert."""
    given = vars(build_parser().parse_args(argv))
    form = FORMATS[given["form"]]
    source, output = options_from(given, form.options), options_from(given, OutputOptions)
    if not source.source.is_dir():
        raise UserError(f"{source.source} is not a folder; give the folder of the annotations.")

    from utils.datasets.locate import find_root
    from utils.tools.convert.output import write_dataset

    out = output.out or find_root(f"../datasets/{form.folder}", Path.cwd())
    write_dataset(source.read(), out, allow_missing_images=output.allow_missing_images)


if __name__ == "__main__":
    run_script(main)
