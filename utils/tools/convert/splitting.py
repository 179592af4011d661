"""Divide images into splits: by the names of folders and lists, or by a seeded choice."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from utils.datasets.image_files import is_comment
from utils.datasets.matching import name_key
from utils.errors import UserError
from utils.tools.convert.annotated import (
    AnnotatedImage,
    Problems,
    Split,
    shown,
    without_images_folders,
)
from utils.tools.convert.finder import FileFinder, stem_of

log = logging.getLogger("yolo")

ROLE_WORDS = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
TRAINVAL = "trainval"
CLASS_FLAG = re.compile(r"(.+?)\s+(?:-1|0|1)")
"""A line of a list for one class: the image, and whether it shows the class."""
ROLE_ORDER = ("val", "test", "train", "")
"""The first split of an image keeps it."""
WORDS = re.compile(r"[a-z]+")
DEFAULT_SHARE = 0.2
BACKGROUND = ""
"""Stratum of the images without a box."""
COPY = re.compile(r"[._]rf\.[0-9a-z]+$", re.IGNORECASE)
"""Roboflow ends the names of the augmented copies of an image with it."""
LAST_NUMBER = re.compile(r"[\s_.()-]*\d+[\s_.()-]*$")


class SplitRule(NamedTuple):
    """How images are divided into training and validation where the annotations do not say it."""

    share: float | None = None
    """Fraction of the images for validation; None: `DEFAULT_SHARE`."""
    group: bool = False
    """Keep images with near-equal names in the same split."""
    seed: int = 0


def role_of(name: str) -> str:
    """Return the role that a name such as `val2017` or `obj_train_data` says; empty if none does.

    A name with words of two roles says none.
    """
    roles = {ROLE_WORDS[word] for word in WORDS.findall(name.lower()) if word in ROLE_WORDS}
    return roles.pop() if len(roles) == 1 else ""


def split_by_folders(images: Sequence[AnnotatedImage], origin: object) -> list[Split]:
    """Split images by folders called train, valid or test in their `place`, in any depth.

    Returns:
        a split per role, or a single one without a role if no folder is called so.

    Raises:
        UserError: some images are in such folders, others are not.
    """
    by_role: defaultdict[str, list[AnnotatedImage]] = defaultdict(list)
    for image in images:
        roles = [role for role in map(role_of, image.place.parent.parts) if role]
        by_role[roles[-1] if roles else ""].append(image)
    if "" in by_role and len(by_role) > 1:
        others = [image.place for image in by_role[""]]
        raise UserError(
            f"{origin} has folders for {' and '.join(sorted(filter(None, by_role)))}, but these "
            f"images are in none of them: {shown(others)}; move them, or rename the folders."
        )
    if "" in by_role:
        return [Split("", "", by_role[""], folder="")]
    roles = [role for role in ("train", "val", "test") if role in by_role]
    return [Split(role, role, by_role[role]) for role in roles]


def split_by_lists(
    lists: Mapping[Path, str], finder: FileFinder, found: Mapping[Path, AnnotatedImage]
) -> list[Split]:
    """Split images by files that list them, one per line, in any of the ways that `find` reads.

    Lists for one class have a flag after each name. `trainval` is read for what lists before it
    lack. Empty lists and images in no list are left out; the latter are counted in the log.

    Args:
        lists: role of each list.
        finder: finds the images that are listed.
        found: these images with their annotations.

    Raises:
        UserError: a listed image does not exist, or no images are listed.
    """
    problems = Problems()
    by_role: defaultdict[str, dict[Path, AnnotatedImage]] = defaultdict(dict)
    for file, role in lists.items():
        before = {image for images in by_role.values() for image in images}
        rest = before if file.stem.lower() == TRAINVAL else ()
        for line in read_lines(file):
            if not line or is_comment(line):
                continue
            with problems.collected():
                flagged = CLASS_FLAG.fullmatch(line)
                image = finder.find(line) or (finder.find(flagged[1]) if flagged else None)
                if image is None:
                    raise UserError(f"{file} lists {line}, which does not exist; correct it.")
                if image not in rest:
                    by_role[role][image] = found[image]
    problems.raise_if_any()
    if not by_role:
        raise UserError(f"{shown(list(lists))}: no images are listed; remove the lists.")
    splits = [
        Split(role, role, list(images.values()), None if role else "")
        for role, images in by_role.items()
    ]
    log_unlisted(splits, finder)
    return splits


def read_lines(file: Path) -> list[str]:
    """Return the stripped lines of a text file, without empty ones at the end.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is damaged ({error}); save it as UTF-8 text.") from error
    return [line.strip() for line in text.strip().splitlines()]


def shorten_places(split: Split) -> Split:
    """Remove `images` and the folder of the split, which the data set adds, from the places."""

    def short(place: PurePosixPath) -> PurePosixPath:
        place = without_images_folders(place)
        first = place.parts[0] if len(place.parts) > 1 else ""
        if first and split.role and (first == split.name or role_of(first) == split.role):
            return PurePosixPath(*place.parts[1:])
        return place

    return split._replace(images=[i._replace(place=short(i.place)) for i in split.images])


def log_unlisted(splits: Iterable[Split], finder: FileFinder) -> None:
    """Log how many images of a folder are in none of the splits."""
    unlisted = set(finder) - {image.file for split in splits for image in split.images}
    if unlisted:
        log.warning("%d images are in none of the splits and not used.", len(unlisted))


def with_unlisted(splits: list[Split], source: Path, finder: FileFinder) -> list[Split]:
    """Add the images that a single file does not list as background.

    If there are such files for other splits beside it, or the source is a folder of several, the
    unlisted images may show objects and are not used.
    """
    beside = source.parent.glob(f"*{source.suffix}") if source.is_file() else ()
    others = sorted(file.name for file in beside if file != source and role_of(file.stem))
    if others:
        message = "Not used: %s; to use it, give the folder %s."
        log.warning(message, shown(others), source.parent)
    if not source.is_file() or others:
        log_unlisted(splits, finder)
        return splits
    (split,) = splits
    listed = {image.file for image in split.images}
    rest = [AnnotatedImage(finder.place(i), i, 0, 0, ()) for i in finder if i not in listed]
    if rest:
        log.warning("%d images that the annotations do not list are background.", len(rest))
    return [split._replace(images=[*split.images, *rest])]


def without_repeats(splits: Iterable[Split]) -> tuple[Split, ...]:
    """Return splits that share no image: validation keeps it, before test and training.

    Otherwise the images of validation would also be trained on, and its results be too good. A
    split whose images are all in another one keeps them. Both is logged.
    """
    splits = tuple(splits)
    owners: dict[Path, str] = {}
    kept: dict[str, Split] = {}
    for split in sorted(splits, key=lambda split: ROLE_ORDER.index(split.role)):
        others = [owners.get(image.file, split.name) for image in split.images]
        repeated = {
            image.place: other
            for image, other in zip(split.images, others, strict=True)
            if other != split.name
        }
        every = len(repeated) == len(split.images)
        if repeated:
            log.warning(
                "%s: %d of %d images are also in %s: %s. %s",
                *(split.name, len(repeated), len(split.images)),
                " and ".join(sorted(set(repeated.values()))),
                shown(list(repeated)),
                "They stay in both, because none would be left; results on them say nothing about "
                "other images."
                if every
                else f"They are left out of {split.name}.",
            )
        images = split.images if every else [i for i in split.images if i.place not in repeated]
        kept[split.name] = split._replace(images=images)
        for image in images:
            owners.setdefault(image.file, split.name)
    return tuple(kept[split.name] for split in splits)


def divide(splits: Iterable[Split], rule: SplitRule) -> tuple[Split, ...]:
    """Divide splits without a role; without a validation split, divide those for training.

    Raises:
        UserError: there is a validation split, but the rule was given; or images are too few.
    """
    splits = tuple(splits)
    roles = {split.role for split in splits}
    if "" not in roles and ("val" in roles or "train" not in roles):
        if rule != SplitRule():
            raise UserError(
                "--val-share, --group and --seed divide images that are not divided yet, but "
                f"the annotations have the splits {shown([split.name for split in splits])}; "
                "leave these options out."
            )
        return splits
    divided: list[Split] = []
    for split in splits:
        divided += _divided(split, rule) if split.role in ("", "train") else [split]
    return tuple(divided)


def _divided(split: Split, rule: SplitRule) -> list[Split]:
    share = DEFAULT_SHARE if rule.share is None else rule.share
    chosen = choose(split.images, share, group=rule.group, seed=rule.seed)
    name = split.name or "train"
    parts: dict[bool, list[AnnotatedImage]] = {False: [], True: []}
    for image in split.images:
        parts[image.place in chosen].append(image)
    log.info(
        "%d images are for training and %d for validation: --val-share %g, stratified by class%s, "
        "seed %d.",
        *(len(parts[False]), len(parts[True]), share),
        *(", by groups of names" if rule.group else "", rule.seed),
    )
    folder = str(split.images_folder.relative_to("images"))
    folder = "" if folder == "." else folder
    return [
        Split(name, "train", parts[False], folder),
        Split(name.replace("train", "val", 1), "val", parts[True], folder),
    ]


def choose(
    images: Sequence[AnnotatedImage], share: float, *, group: bool, seed: int
) -> frozenset[PurePosixPath]:
    """Return the places of the images for validation: a function of the seed and the names.

    Every image, or group of images, belongs to the stratum of its rarest class. In each stratum
    the images are ordered by a hash of the seed and the name, and the first ones are chosen. So an
    added image hardly changes what was chosen before. At least one image of a stratum stays for
    training.

    Raises:
        UserError: there are fewer than two images or groups.
    """
    units: defaultdict[str, list[AnnotatedImage]] = defaultdict(list)
    for image in images:
        units[group_name(image.place) if group else str(image.place)].append(image)
    if len(units) < 2:  # noqa: PLR2004 -- one for training, one for validation
        reason = "their names differ in the last number only; leave --group out"
        raise UserError(
            f"{len(images)} images cannot be divided into training and validation; "
            + (reason if group and len(images) > 1 else "add images")
            + "."
        )
    kinds = {
        name: {a.kind for image in unit for a in image.annotations} for name, unit in units.items()
    }
    frequency = Counter(kind for found in kinds.values() for kind in found)
    strata: defaultdict[str, list[str]] = defaultdict(list)
    for name, found in kinds.items():
        strata[min(found, key=lambda kind: (frequency[kind], kind), default=BACKGROUND)].append(
            name
        )
    chosen: list[str] = []
    left = 0.0
    for _, names in sorted(strata.items()):
        names.sort(key=lambda name: _hash(seed, name))
        left += share * sum(len(units[name]) for name in names)
        for name in names[:-1]:
            if len(units[name]) / 2 <= left:
                chosen.append(name)
                left -= len(units[name])
    if not chosen:
        largest = max(strata.values(), key=len)
        chosen = largest[:1] if len(largest) > 1 else [min(units, key=lambda n: _hash(seed, n))]
    return frozenset(image.place for name in chosen for image in units[name])


def group_name(place: PurePosixPath) -> str:
    """Return what images of one video, series or original have in common in their paths.

    `clip1_0001.jpg` and `clip1_0002.jpg` are one group; so are the copies that Roboflow makes of an
    image, `a_jpg.rf.HASH.jpg`.
    """
    stem = stem_of(place.name)
    original = COPY.sub("", stem)
    if original == stem:
        original = LAST_NUMBER.sub("", stem) or "number"
    return f"{place.parent}/{original}"


def _hash(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name_key(name)}".encode()).digest()
