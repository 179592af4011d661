"""Write a converted data set, such that an incomplete one is recognizable.

The data-set file is removed first and written last. The labels of a split are written to a
temporary folder and moved into place. Running a killed conversion again completes it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import yaml
from tqdm import tqdm

from utils.datasets.ignore_regions import IGNORE_FOLDER
from utils.datasets.image_files import IMAGE_SUFFIXES
from utils.datasets.labels import IMAGE_FOLDER, LABEL_FOLDER
from utils.errors import UserError
from utils.files.atomic_write import atomic_write_text
from utils.tools.convert.annotated import AnnotatedImage, Conversion, Split
from utils.tools.convert.tally import Tally, log_summary

log = logging.getLogger("yolo")

DATA_FILE = "data.yaml"
RECORD = "conversion.json"
"""Record of the conversion. Its presence shows that the folder was written by the converter."""
STAGING = ".converting"
TREES = (LABEL_FOLDER, IGNORE_FOLDER)
ROLES = ("train", "val", "test")


def write_dataset(conversion: Conversion, out: Path, *, allow_missing_images: bool) -> None:
    """Write labels, ignore regions, links to the images and the data-set file, and log a summary.

    The output of an earlier conversion in the folder `out` is replaced.

    Raises:
        UserError: images are missing or have the same label file, or the folder cannot be written
            or contains files that were not written by a conversion.
    """
    for split in conversion.splits:
        _require_distinct(split)
    if not allow_missing_images:
        _require_images(conversion)
    try:
        _write(conversion, out)
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error.strerror}; give another folder with --out."
        ) from error


def _require_distinct(split: Split) -> None:
    """Check that no two images have the same label file."""
    seen: dict[PurePosixPath, PurePosixPath] = {}
    for image in split.images:
        stem = image.place.with_suffix("")
        if stem in seen:
            raise UserError(
                f"{split.name}: images {seen[stem]} and {image.place} have the same label file "
                f"{stem}.txt; rename one of them."
            )
        seen[stem] = image.place


def _require_images(conversion: Conversion) -> None:
    files = [image.file for split in conversion.splits for image in split.images]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UserError(
            f"{missing[0]} does not exist ({len(missing)} of {len(files)} images are missing); "
            f"{conversion.missing_images_remedy}, "
            "or use --allow-missing-images to write labels only."
        )


def _write(conversion: Conversion, out: Path) -> None:
    _require_own(conversion, out)
    record: dict[str, object] = {"from": conversion.source_format, **conversion.settings}
    _write_json(out / RECORD, {**record, "complete": False})
    (out / DATA_FILE).unlink(missing_ok=True)
    tallies = []
    for split in conversion.splits:
        tallies.append(_write_labels(split, conversion, out))
        _link_images(split, out)
        if conversion.lists:
            places = (f"./{IMAGE_FOLDER}/{split.name}/{image.place}\n" for image in split.images)
            atomic_write_text(out / f"{split.name}.txt", "".join(places))
    for place, content in conversion.json_files.items():
        _write_json(out / place, content)
    for place, original in conversion.linked_files.items():
        link(original, out / place)
    counts = [vars(tally) for tally in tallies]
    _write_json(out / RECORD, {**record, "complete": True, "splits": counts})
    atomic_write_text(out / DATA_FILE, data_file_text(conversion))
    log_summary(tallies)
    log.info("Data-set file saved to %s", out / DATA_FILE)


def _require_own(conversion: Conversion, out: Path) -> None:
    """Check that no labels from elsewhere are in the folder; they would be lost."""
    if (out / RECORD).is_file():
        return
    trees = [f"{tree}/{split.name}" for split in conversion.splits for tree in TREES]
    for place in (DATA_FILE, *trees, *conversion.json_files):
        if (out / place).exists():
            raise UserError(
                f"{out / place} exists and was not written by a conversion; move it away, "
                "or give another folder with --out."
            )


def _write_labels(split: Split, conversion: Conversion, out: Path) -> Tally:
    """Write and replace labels/SPLIT and ignore/SPLIT; an image without rows gets no file."""
    staging = out / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    tally = Tally(
        split.name,
        rows=Counter(dict.fromkeys(conversion.kinds, 0)),
        boxes=Counter(dict.fromkeys(conversion.names, 0)),
    )
    for tree in TREES:
        (staging / tree).mkdir(parents=True)
    for image in tqdm(split.images, f"Labels of {split.name}", unit="img", disable=None):
        rows = tally.rows_of(image)
        _write_rows(staging / LABEL_FOLDER, image, rows.labels)
        _write_rows(staging / IGNORE_FOLDER, image, rows.ignored)
    for tree in TREES:
        target = out / tree / split.name
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            target.rename(staging / f"{tree}-before")
        (staging / tree).rename(target)
    shutil.rmtree(staging)
    return tally


def _write_rows(folder: Path, image: AnnotatedImage, rows: Sequence[str]) -> None:
    if rows:
        target = folder / image.place.with_suffix(".txt")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def _link_images(split: Split, out: Path) -> None:
    folder = out / IMAGE_FOLDER / split.name
    folder.mkdir(parents=True, exist_ok=True)
    expected = set()
    for image in tqdm(split.images, f"Images of {split.name}", unit="img", disable=None):
        if image.file.is_file():
            link(image.file, folder / image.place)
            expected.add(folder / image.place)
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    others = sum(path not in expected for path in found)
    if others:
        log.warning(
            "%s has %d images without annotations, which are used as background; "
            "remove them if they show objects.",
            folder,
            others,
        )
    total, missing = len(split.images), len(split.images) - len(expected)
    if missing:
        message = "%d of %d images of %s are missing; only their labels are written."
        log.warning(message, missing, total, split.name)


def link(source: Path, target: Path) -> None:
    """Create a link to the file `source` at `target`, unless `target` already is this file.

    A symbolic link is preferred, because it is visible as a link and works across disks. Where it
    is not allowed, as on Windows without a privilege, the link is a hard one.

    Raises:
        UserError: another file is at `target`, or no kind of link can be created.
    """
    if target.exists() and target.samefile(source):
        return
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        raise UserError(f"{target} exists and is not {source}; remove it or move it away.")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source.resolve())
    except OSError:
        try:
            target.hardlink_to(source.resolve())
        except OSError as error:
            raise UserError(
                f"cannot write {target} as a link to {source}: {error.strerror}; "
                "give a folder on the same disk with --out."
            ) from error


def data_file_text(conversion: Conversion) -> str:
    """Return the text of the data-set file. Its `path` is its own folder, so it can be moved."""
    content: dict[str, object] = {"path": "."}
    for role in ROLES:
        folders = [f"{IMAGE_FOLDER}/{s.name}" for s in conversion.splits if s.role == role]
        if folders:
            content[role] = folders if len(folders) > 1 else folders[0]
    content |= conversion.entries
    content["names"] = dict(enumerate(conversion.names))
    header = (
        f"# Made by python -m utils.tools.convert {conversion.source_format}; see {RECORD}.\n\n"
    )
    return header + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _write_json(target: Path, content: object) -> None:
    atomic_write_text(target, json.dumps(content, separators=(",", ":")))
