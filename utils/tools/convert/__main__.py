"""Convert the original annotations of a data set to YOLO labels; images are linked, not copied.

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
from utils.options.option import REQUIRED, option
from utils.options.script import OptionParser, run_script

# What is heavy is imported where it is used, so that --help answers at once.
if TYPE_CHECKING:
    from utils.tools.convert.annotated import Conversion


@dataclass(frozen=True)
class CityPersonsOptions:
    """Which of CityPersons' annotations become labels."""

    source: Path = option(REQUIRED, "folder of anno_train.mat and anno_val.mat", positional=True)
    images: Path | None = option(
        None,
        "folder with Cityscapes' leftImg8bit/ (default: the one of the annotations)",
        metavar="FOLDER",
    )
    classes: str = option(
        "pedestrian",
        "of pedestrian,rider,sitting,other,group, in the order of their labels; the others "
        "become ignore regions (default {default})",
        metavar="A,B",
    )
    visible: bool = option(False, "boxes around visible parts")
    # The defaults are those of the benchmark's widest subset, All, which contains the others.
    min_height: float = option(
        20.0,
        "lower people become ignore regions (default {default:g}, as in the benchmark's "
        "subset All; 50 in Reasonable)",
        metavar="PX",
    )
    min_visibility: float = option(
        0.2,
        "so do pedestrians and riders with less of their area in sight (default {default:g}, "
        "as in All; 0.65 in Reasonable)",
        metavar="SHARE",
    )


@dataclass(frozen=True)
class CocoOptions:
    """Where annotations in COCO's format and their images are."""

    source: Path = option(REQUIRED, "folder with annotations/instances_SPLIT.json", positional=True)
    images: Path | None = option(
        None, "folder with SPLIT/ or images/SPLIT/ (default: the source)", metavar="FOLDER"
    )


@dataclass(frozen=True)
class VocOptions:
    """Which annotations in Pascal VOC's format become labels."""

    source: Path = option(
        REQUIRED, "folder with Annotations/, or a VOCdevkit of several years", positional=True
    )
    classes: str = option(
        "",
        "to keep, in the order of their labels; the others become ignore regions (default: all, "
        "in alphabetical order)",
        metavar="A,B",
    )


@dataclass(frozen=True)
class OutputOptions:
    """Where to write what is converted, whatever its form was."""

    out: Path | None = option(
        None, "of the data set; if not given, the one that data/*.yaml looks in", metavar="FOLDER"
    )
    allow_missing_images: bool = option(False, "write labels also for images that are not there")


SourceOptions = CityPersonsOptions | CocoOptions | VocOptions


class Form(NamedTuple):
    """A form of annotations."""

    help: str
    options: type[SourceOptions]
    folder: str
    """That data/*.yaml looks in, under the folder of data sets."""


FORMS = {
    "citypersons": Form("CityPersons' .mat files", CityPersonsOptions, "citypersons"),
    "coco": Form("instances_*.json, as of COCO", CocoOptions, "coco"),
    "voc": Form("XML files with ImageSets, as of Pascal VOC", VocOptions, "VOC"),
}


def build_parser() -> argparse.ArgumentParser:
    """The options of this program."""
    parser = OptionParser(
        prog="python -m utils.tools.convert",
        description="Convert original annotations to YOLO labels, ignore regions and a data-set "
        "file. Images are linked or left in place.",
    )
    metavar = "{" + ",".join(FORMS) + "}"
    forms = parser.add_subparsers(dest="form", required=True, metavar=metavar)
    for name, form in FORMS.items():
        subparser = forms.add_parser(name, help=form.help)
        add_options(subparser, form.options)
        add_options(subparser, OutputOptions)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and convert."""
    given = vars(build_parser().parse_args(argv))
    form = FORMS[given["form"]]
    source, output = options_from(given, form.options), options_from(given, OutputOptions)
    if not source.source.is_dir():
        raise UserError(f"{source.source} is no folder; name the one that holds the annotations.")

    from utils.datasets.locate import find_root
    from utils.tools.convert.output import write_dataset

    conversion = read_annotations(source)
    out = output.out or find_root(f"../datasets/{form.folder}", Path.cwd())
    write_dataset(conversion, out, allow_missing_images=output.allow_missing_images)


def read_annotations(options: SourceOptions) -> Conversion:
    """The annotations, read from files of whatever form.

    Raises:
        UserError: an option or an annotation is refused.
    """
    if isinstance(options, CityPersonsOptions):
        from utils.tools.convert.citypersons import Choice, parse_classes, read_citypersons

        classes = parse_classes(options.classes)
        choice = Choice(classes, options.visible, options.min_height, options.min_visibility)
        return read_citypersons(options.source, options.images or options.source, choice)
    if isinstance(options, CocoOptions):
        from utils.tools.convert.coco import read_coco

        return read_coco(options.source, options.images or options.source)
    from utils.tools.convert.voc import read_voc

    names = [name.strip() for name in options.classes.split(",") if name.strip()]
    return read_voc(options.source, names)


if __name__ == "__main__":
    run_script(main)
