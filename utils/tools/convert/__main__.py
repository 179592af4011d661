"""Convert the original annotations of a data set to YOLO labels; images are linked, not copied.

Usage: python -m utils.tools.convert citypersons ANNOTATIONS --images CITYSCAPES
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError
from utils.options.script import OptionParser, run_script

# What is heavy is imported where it is used, so that --help answers at once.

MIN_HEIGHT = 20.0
MIN_VISIBILITY = 0.2
"""With 20 px the least of the benchmark's widest subset, All, which all of its others are in."""


def build_parser() -> argparse.ArgumentParser:
    """The options of this program."""
    parser = OptionParser(
        prog="python -m utils.tools.convert",
        description="Convert original annotations to YOLO labels, ignore regions and a data-set "
        "file. Images are linked or left in place.",
    )
    forms = parser.add_subparsers(dest="form", required=True, metavar="{citypersons,coco,voc}")
    _add_citypersons(forms.add_parser("citypersons", help="CityPersons' .mat files"))
    _add_coco(forms.add_parser("coco", help="instances_*.json, as of COCO"))
    _add_voc(forms.add_parser("voc", help="XML files with ImageSets, as of Pascal VOC"))
    for form in forms.choices.values():
        form.add_argument(
            "--out",
            type=Path,
            metavar="FOLDER",
            help="of the data set; if not given, the one that data/*.yaml looks in",
        )
        form.add_argument(
            "--allow-missing-images",
            action="store_true",
            help="write labels also for images that are not there",
        )
    return parser


def _add_citypersons(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="folder of anno_train.mat and anno_val.mat")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="folder with Cityscapes' leftImg8bit/ (default: the one of the annotations)",
    )
    parser.add_argument(
        "--classes",
        default="pedestrian",
        metavar="A,B",
        help="of pedestrian,rider,sitting,other,group, in the order of their labels; the others "
        "become ignore regions (default pedestrian)",
    )
    parser.add_argument("--visible", action="store_true", help="boxes around visible parts")
    parser.add_argument(
        "--min-height",
        type=float,
        default=MIN_HEIGHT,
        metavar="PX",
        help="lower people become ignore regions (default %(default)g, as in the benchmark's "
        "subset All; 50 in Reasonable)",
    )
    parser.add_argument(
        "--min-visibility",
        type=float,
        default=MIN_VISIBILITY,
        metavar="SHARE",
        help="so do pedestrians and riders with less of their area in sight (default %(default)g, "
        "as in All; 0.65 in Reasonable)",
    )


def _add_coco(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="folder with annotations/instances_SPLIT.json")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="folder with SPLIT/ or images/SPLIT/ (default: the source)",
    )


def _add_voc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=Path, help="folder with Annotations/, or a VOCdevkit of several years"
    )
    parser.add_argument(
        "--classes",
        default="",
        metavar="A,B",
        help="to keep, in the order of their labels; the others become ignore regions (default: "
        "all, in alphabetical order)",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and convert."""
    args = build_parser().parse_args(argv)
    if not args.source.is_dir():
        raise UserError(f"{args.source} is no folder; name the one that holds the annotations.")

    from utils.datasets.locate import find_root
    from utils.tools.convert.output import write_dataset

    if args.form == "citypersons":
        from utils.tools.convert.citypersons import Choice, parse_classes, read_citypersons

        choice = Choice(
            parse_classes(args.classes), args.visible, args.min_height, args.min_visibility
        )
        conversion = read_citypersons(args.source, args.images or args.source, choice)
    elif args.form == "coco":
        from utils.tools.convert.coco import read_coco

        conversion = read_coco(args.source, args.images or args.source)
    else:
        from utils.tools.convert.voc import read_voc

        classes = [name.strip() for name in args.classes.split(",") if name.strip()]
        conversion = read_voc(args.source, classes)
    name = {"voc": "VOC"}.get(args.form, args.form)
    out = args.out or find_root(f"../datasets/{name}", Path.cwd())
    write_dataset(conversion, out, allow_missing_images=args.allow_missing_images)


if __name__ == "__main__":
    run_script(main)
