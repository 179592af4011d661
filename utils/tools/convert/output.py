"""Write a converted data set, such that an incomplete one is recognizable.

The data-set file is removed first and written last. What is written is listed in a record first;
see `made_files`. Running a killed conversion again completes it.
"""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import yaml
from tqdm import tqdm

from utils.datasets.ignore_regions import IGNORE_FOLDER
from utils.datasets.image_files import IMAGE_SUFFIXES
from utils.datasets.labels import IMAGE_FOLDER, LABEL_FOLDER
from utils.errors import UserError
from utils.files.atomic_write import atomic_write_text, remove_temporary_files
from utils.tools.convert.annotated import Conversion, Problems, Split, shown
from utils.tools.convert.made_files import (
    COMPLETE,
    FILES,
    RECORD,
    checksum,
    json_text,
    read_made_files,
    remove,
    require_own,
)
from utils.tools.convert.sizes import with_real_sizes
from utils.tools.convert.tally import LabelRows, Tally, log_summary

log = logging.getLogger("yolo")

DATA_FILE = "data.yaml"
TREES = (LABEL_FOLDER, IGNORE_FOLDER)
ROLES = ("train", "val", "test")


@dataclass
class _Plan:
    """All files of a data set, by path in it."""

    texts: dict[str, str] = field(default_factory=dict)
    """Contents, in the order of writing; the data-set file is not among them."""
    links: dict[str, Path] = field(default_factory=dict)
    """Files to link to."""
    absent: list[str] = field(default_factory=list)
    """Label files and ignore files that images without rows must not have."""
    tallies: list[Tally] = field(default_factory=list)


def write_dataset(
    conversion: Conversion, out: Path, *, allow_missing_images: bool
) -> Sequence[Tally]:
    """Write labels, ignore regions, links to the images and the data-set file, and log a summary.

    The files that earlier conversions made in the folder `out` are replaced or removed.

    Returns:
        the counts of each split.

    Raises:
        UserError: images are missing or have the same label file, or the folder cannot be written
            or contains files that were not written by a conversion, or were changed since.
    """
    _require_distinct(conversion.splits)
    if not allow_missing_images:
        _require_images(conversion)
    conversion = with_real_sizes(conversion)
    try:
        return _write(conversion, out)
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error.strerror}; give another folder with --out."
        ) from error


def _require_distinct(splits: Sequence[Split]) -> None:
    """Check that no two images have the same label file."""
    problems = Problems()
    seen: dict[PurePosixPath, PurePosixPath] = {}
    for split in splits:
        for image in split.images:
            place = split.images_folder / image.place
            stem = place.with_suffix("")
            other = seen.setdefault(stem, place)
            if other is place:
                continue
            origin = split.name or "the data set"
            if other == place:
                found = f"{origin}: image {image.place} is listed twice; remove one of them."
            else:
                found = (
                    f"{origin}: images {other.relative_to(split.images_folder)} and {image.place} "
                    f"have the same label file {image.place.with_suffix('.txt')}; "
                    "rename one of them."
                )
            problems.found.append(found)
    problems.raise_if_any()


def _require_images(conversion: Conversion) -> None:
    files = [image.file for split in conversion.splits for image in split.images]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UserError(
            f"{missing[0]} does not exist ({len(missing)} of {len(files)} images are missing"
            + (
                f": {shown([file.name for file in missing])}"
                if 1 < len(missing) < len(files)
                else ""
            )
            + f"); {conversion.missing_images_remedy}, "
            "or use --allow-missing-images to write labels only."
        )


def _write(conversion: Conversion, out: Path) -> Sequence[Tally]:
    made = read_made_files(out)
    plan = _plan(conversion)
    _require_own_files(conversion, plan, out, made)
    before = made or {}
    # A link whose target is already there, in a conversion in place, was not made by us.
    plan.links = {
        place: source
        for place, source in plan.links.items()
        if place in before or not _is_same(source, out / place)
    }
    data_file = data_file_text(conversion)
    files: dict[str, int | None] = dict.fromkeys(plan.links)
    files |= {place: checksum(text) for place, text in plan.texts.items()}
    files[DATA_FILE] = checksum(data_file)
    record: dict[str, object] = {"from": conversion.source_format, **conversion.settings}
    counts = [vars(tally) for tally in plan.tallies]

    if made is not None:
        remove_temporary_files(out)
    started = {**record, COMPLETE: False, FILES: {**before, **files}}
    atomic_write_text(out / RECORD, json_text(started))
    remove(out, [DATA_FILE])
    remove(out, [place for place in before if place not in files])
    for place, text in tqdm(plan.texts.items(), "Writing labels", unit="file", disable=None):
        write_text(out / place, text)
    for place, source in tqdm(plan.links.items(), "Linking images", unit="img", disable=None):
        link(source, out / place)
    done = {**record, COMPLETE: True, "splits": counts, FILES: files}
    atomic_write_text(out / RECORD, json_text(done))
    atomic_write_text(out / DATA_FILE, data_file)

    _report_images(conversion.splits, out)
    log_summary(plan.tallies)
    log.info("Data-set file saved to %s", out / DATA_FILE)
    return plan.tallies


def _plan(conversion: Conversion) -> _Plan:
    plan = _Plan()
    for split in conversion.splits:
        tally = Tally(
            split.name,
            rows=Counter(dict.fromkeys(conversion.kinds, 0)),
            boxes=Counter(dict.fromkeys(conversion.names, 0)),
        )
        places = [split.images_folder / image.place for image in split.images]
        for image, place in zip(split.images, places, strict=True):
            inner = place.relative_to(IMAGE_FOLDER).with_suffix(".txt")
            rows: LabelRows = tally.rows_of(image)
            for tree, lines in zip(TREES, rows, strict=True):
                if lines:
                    plan.texts[f"{tree}/{inner}"] = "".join(f"{line}\n" for line in lines)
                else:
                    plan.absent.append(f"{tree}/{inner}")
            if image.file.is_file():
                plan.links[str(place)] = image.file
        if conversion.lists or split.folder is not None:
            plan.texts[f"{split.name}.txt"] = "".join(f"./{place}\n" for place in places)
        plan.tallies.append(tally)
    plan.texts |= {place: json_text(text) for place, text in conversion.json_files.items()}
    plan.links |= conversion.linked_files
    return plan


def _require_own_files(
    conversion: Conversion, plan: _Plan, out: Path, made: Mapping[str, object] | None
) -> None:
    """Check that nothing that the user wrote is overwritten, or counts as labels from now on."""
    own = [DATA_FILE, *plan.texts, *plan.absent]
    if made is None:  # labels in another form may be there
        folders = {split.images_folder.relative_to(IMAGE_FOLDER) for split in conversion.splits}
        own += [str(PurePosixPath(tree, folder)) for folder in sorted(folders) for tree in TREES]
    made = made or {}
    require_own(out, own, made.keys(), "move it away")
    others = [place for place, source in plan.links.items() if not _is_same(source, out / place)]
    require_own(out, others, made.keys(), "remove it or move it away")


def _is_same(source: Path, target: Path) -> bool:
    """Whether both are the same existing file."""
    return target.exists() and target.samefile(source)


def write_text(target: Path, text: str) -> None:
    """Write a text file that the record already lists, so that it need not be atomic."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8", newline="\n")


def _report_images(splits: Sequence[Split], out: Path) -> None:
    """Log images that are missing, and images in a folder of a split that are not of it."""
    for split in splits:
        missing = sum(not image.file.is_file() for image in split.images)
        if missing:
            message = "%d of %d images of %s are missing; only their labels are written."
            log.warning(message, missing, len(split.images), split.name)
        folder = out / split.images_folder
        if split.folder is not None or not folder.is_dir():
            continue
        expected = {folder / image.place for image in split.images}
        found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        others = sum(path not in expected for path in found)
        if others:
            log.warning(
                "%s has %d images without annotations, which are used as background; "
                "remove them if they show objects.",
                folder,
                others,
            )


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
        sources = [
            str(split.images_folder) if split.folder is None else f"{split.name}.txt"
            for split in conversion.splits
            if split.role == role
        ]
        if sources:
            content[role] = sources if len(sources) > 1 else sources[0]
    content |= conversion.entries
    content["names"] = dict(enumerate(conversion.names))
    header = (
        f"# Made by python -m utils.tools.convert {conversion.source_format}; see {RECORD}.\n\n"
    )
    return header + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def log_next_steps(data: Path) -> None:
    """Log the commands that check the data set and train on it."""
    file = shlex.quote(str(data))
    log.info("\nNext: python -m utils.tools.check %s --imgsz 640", file)
    log.info("      python train.py --data %s --weights yolov5s.pt --imgsz 640", file)
