"""The data-set file: locations of the images, class names, and how to get the data."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from reprlib import repr as shortened
from urllib.parse import urlsplit

from utils.datasets.acquire import (
    Archive,
    MissingDataError,
    download_dataset,
    looked_in,
    missing_dataset_error,
)
from utils.datasets.class_names import class_names
from utils.datasets.locate import (
    can_mean,
    find_root,
    moved_copy,
    native_path,
    report_moved,
    root_places,
)
from utils.datasets.matching import find_files
from utils.errors import UserError
from utils.files.download import is_url, without_secrets
from utils.files.yaml_file import read_yaml

log = logging.getLogger("yolo")

DATA_FOLDER = Path(__file__).resolve().parents[2] / "data"
SPLITS = ("train", "val", "test")
YAML_SUFFIXES = (".yaml", ".yml")
STREETS = "streets"
"""Value of `embedded:` for the generated street scenes, the only such data set."""
MISS_RATE_KEY = "miss_rate_gt"
"""Key of the val split's ground truth in CityPersons format."""
COCO_KEY = "annotations"
"""Key of the val split's ground truth in COCO format."""


@dataclass(frozen=True)
class DatasetDescription:
    """The validated content of a data-set file; the images are not read."""

    path: Path
    """The YAML file."""
    root: Path
    """The data set's folder; it may not exist yet."""
    train: tuple[Path, ...]
    """Folders of images, and .txt files that list images; empty if the file has no such line."""
    val: tuple[Path, ...]
    test: tuple[Path, ...]
    names: tuple[str, ...]
    """Class names by index."""
    download: tuple[Archive, ...] = ()
    """Archives to download if the folder is missing."""
    embedded: bool = False
    """Whether it is the street-scenes data set, which is generated on first use."""
    scripted: bool = False
    """Whether `download:` is a script written for another program; it is never run."""
    obtain: str = ""
    """How to get data that the program cannot download, as a clause for messages."""
    places: tuple[Path, ...] = field(default=(), compare=False)
    """Folders in which the data were looked for."""
    title: str = field(default="", compare=False)
    """The folder as messages name it: as the file does if that is a path of another system."""

    def split(self, name: str) -> tuple[Path, ...]:
        """Return the sources of the split `train`, `val` or `test`.

        Raises:
            UserError: the file has no such line.
        """
        sources = {"train": self.train, "val": self.val, "test": self.test}[name]
        if not sources:
            raise UserError(
                f"{self.path} has no `{name}:` line; add it or choose another data-set file."
            )
        return sources


def load_description(data: str | Path, kept: Path | None = None) -> DatasetDescription:
    """Read and validate a data-set file. It is also looked for in data/ and $YOLO_DATASETS_DIR.

    Args:
        data: the file, its name in data/, or a folder that contains one such file.
        kept: root of the data when a run that continues began; used if the data are still there.

    Raises:
        UserError: the file does not exist, or an entry is missing, unknown or inconsistent.
    """
    try:
        path = _find_file(Path(data))
        content = read_yaml(path, texts="names")
        if not isinstance(content, dict):
            raise UserError(f"{path} has no keys; add `train:`, `val:` and `names:`.")
        return _described(content, path, kept)
    except OSError as error:  # for example a name that is too long for the file system
        raise UserError(
            f"cannot read {data}: {error.strerror}: {shortened(error.filename)}; correct the path."
        ) from error


def _described(
    content: Mapping[str, object], path: Path, kept: Path | None = None
) -> DatasetDescription:
    entry = _text(content, "path", path)
    try:
        places = root_places(entry, path.parent)
        if kept is not None and can_mean(entry, kept):
            places = [kept, *places]
        root = _root_with_data(content, places, path) or find_root(entry, path.parent, places)
        report_moved(entry, root)
    except RuntimeError as error:
        raise UserError(
            f"{path}: the home folder of `path: {entry}` does not exist; correct the path."
        ) from error
    splits = {name: _sources(content.get(name), root, f"{path}: {name}") for name in SPLITS}
    if not any(splits.values()):
        raise UserError(f"{path} has no `train:` and no `val:` line; add them.")
    embedded = content.get("embedded")
    if embedded not in (None, STREETS):
        raise UserError(
            f"{path}: `embedded: {shortened(embedded)}` is unknown; the only value is {STREETS}."
        )
    return DatasetDescription(
        path=path,
        root=root,
        **splits,
        names=class_names(content, path),
        download=_archives(content.get("download"), path),
        embedded=embedded == STREETS,
        scripted=_is_script(content.get("download")),
        obtain=_text(content, "obtain", path).strip(" \n.;"),
        places=tuple(places),
        title=entry if root == native_path(entry) else str(root),
    )


def _root_with_data(
    content: Mapping[str, object], places: Sequence[Path], path: Path
) -> Path | None:
    """Return the first place that has the sources of train and val, else the first with any.

    None if no place has any, or if the file has no relative paths.
    """
    present = {place: _present(content, place, path) for place in places}
    whole = [place for place, found in present.items() if found and all(found)]
    chosen = next((place for place in [*whole, *places] if any(present[place])), None)
    others = [place for place in whole if chosen and place.resolve() != chosen.resolve()]
    if others:
        log.info("%s: using the data in %s, not those in %s.", path, chosen, others[0])
    return chosen


def _present(content: Mapping[str, object], place: Path, path: Path) -> list[bool]:
    """Return whether each source of train and val exists, of those that are in a place."""
    found = [_sources(content.get(name), place, f"{path}: {name}") for name in ("train", "val")]
    return [source.exists() for part in found for source in part if _is_below(source, place)]


def _is_below(source: Path, root: Path) -> bool:
    return source.parts[: len(root.parts)] == root.parts


def ensure_available(
    description: DatasetDescription, splits: Sequence[str] = ("train", "val")
) -> None:
    """Generate or download the data set if the folders and lists of `splits` are missing.

    Raises:
        UserError: they are missing and cannot be downloaded; the message says where to put them.
    """
    if _missing(description, splits) is None:
        return
    check_obtainable(description, splits)
    if description.embedded:
        from data.street_scenes.make import make_streets

        make_streets(description.root)
    else:
        download_dataset(description.root, description.download, description.obtain)
    missing = _missing(description, splits)
    if missing is not None:
        raise UserError(
            f"{missing} does not exist, although the data set was downloaded; "
            f"correct {description.path}."
        )


def check_obtainable(
    description: DatasetDescription, splits: Sequence[str] = ("train", "val")
) -> None:
    """Check that the data set exists or can be downloaded. Downloads nothing.

    Raises:
        UserError: the data set is missing and must be got by hand; the message says how, if the
            data-set file does.
    """
    missing = _missing(description, splits)
    if missing is None:
        return
    root, obtain = description.root, description.obtain
    if root.is_dir() and any(root.iterdir()):
        obtainable = description.embedded or description.download
        again = ", or move it away to download it again" if obtainable else ""
        remedy = obtain or f"add the missing files{again}"
        sources = (*description.train, *description.val, *description.test)
        partly = any(source.exists() for source in sources)
        also = "" if partly else looked_in(description.places, root)
        raise MissingDataError(
            f"{missing} does not exist{also}, so the data set {description.title} is incomplete",
            f"{remedy}, or correct {description.path}",
        )
    if description.scripted:
        why = f"the `download:` entry of {description.path} is a script, which is never run"
        obtain = obtain or "read the script and get the data by hand"
        raise missing_dataset_error(root, why, obtain, description.places, description.title)
    if not description.embedded and not description.download:
        why = f"{description.path} has no download address"
        raise missing_dataset_error(root, why, obtain, description.places, description.title)


def _missing(description: DatasetDescription, splits: Sequence[str]) -> Path | None:
    """Return the first folder or list of `splits` that does not exist."""
    sources = [source for name in splits for source in description.split(name)]
    return next((source for source in sources if not source.exists()), None)


def _find_file(data: Path) -> Path:
    for candidate in (data, DATA_FOLDER / data.name, DATA_FOLDER / f"{data.name}.yaml"):
        if candidate.is_file():
            return candidate
    if data.is_dir():
        return _file_in(data)
    moved = moved_copy(data)
    if moved is not None and moved.is_file():
        log.warning("%s does not exist; using %s.", data, moved)
        return moved
    raise MissingDataError(
        f"data-set file {data} does not exist",
        f"give the path of a file, or the name of one in {DATA_FOLDER.name}/",
    )


def _file_in(folder: Path) -> Path:
    """Return the only YAML file of a folder."""
    found = sorted(file for file in folder.iterdir() if file.suffix.lower() in YAML_SUFFIXES)
    if len(found) == 1:
        return found[0]
    names = ", ".join(file.name for file in found) or "none"
    raise UserError(
        f"{folder} is a folder and must contain one data-set file, but has {names}; give the file."
    )


def _text(content: Mapping[str, object], key: str, path: Path) -> str:
    value = content.get(key)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{path}: `{key}:` is {shortened(value)}; it must be a string.")
    return value or ""


def _sources(entry: object, root: Path, origin: str) -> tuple[Path, ...]:
    """Return the absolute paths of a split's entry: a path, or a list of paths, below the root."""
    entries: list[object] = [] if entry is None else entry if isinstance(entry, list) else [entry]
    paths = [item for item in entries if isinstance(item, str) and item]
    if len(paths) < len(entries):
        raise UserError(f"{origin} is {shortened(entry)}; it must be a path or a list of paths.")
    return tuple(_source(path, root) for path in paths)


def _source(entry: str, root: Path) -> Path:
    source, native = root / entry, native_path(entry)
    # Exports of labelling services say ../train/images for a folder beside the file.
    inside = root / native.as_posix().removeprefix("../")
    found = next((p for p in (source, root / native, inside) if p.exists()), None)
    if found is not None:
        return found
    (alike,) = find_files([str(source)])
    return Path(alike)


def _archives(entry: object, path: Path) -> tuple[Archive, ...]:
    """Return the archives of `download:`: a URL, or a list of URLs and `url`, `folder` maps.

    Some files written for other programs have a script there; it yields no archives.
    """
    if entry is None or _is_script(entry):
        return ()
    items = entry if isinstance(entry, list) else [entry]
    return tuple(_archive(item, path) for item in items)


def _is_script(entry: object) -> bool:
    """Whether a `download:` entry is a string other than a URL."""
    return isinstance(entry, str) and not is_url(entry)


def _archive(item: object, path: Path) -> Archive:
    if isinstance(item, str):
        item = {"url": item}
    if not isinstance(item, dict) or not {"url"} <= set(item) <= {"url", "folder"}:
        raise UserError(
            f"{path}: `download:` has the entry {without_secrets(shortened(item))}; "
            "it must be a URL, or a map with `url` and `folder`."
        )
    archive = Archive(str(item["url"]), str(item.get("folder", ".")))
    folder, shown = PurePosixPath(archive.folder), without_secrets(archive.url)
    try:
        urlsplit(archive.url)
    except ValueError as error:
        raise UserError(
            f"{path}: `download:` has the invalid URL {shown} ({error}); correct it."
        ) from error
    if not is_url(archive.url) or folder.is_absolute() or ".." in folder.parts:
        raise UserError(
            f"{path}: `download:` has the URL {shown} and the folder {archive.folder}; "
            "it must have http(s) URLs and folders inside the data set."
        )
    return archive


def truth_file(description: DatasetDescription, key: str) -> Path | None:
    """Return the path under `key` in a data-set file, or None if there is no such key.

    The file may not exist.

    Raises:
        UserError: the value is not a path.
    """
    content = read_yaml(description.path)
    entry = content.get(key) if isinstance(content, dict) else None
    if entry is None:
        return None
    if not isinstance(entry, str) or not entry:
        raise UserError(f"{description.path}: `{key}:` must be a path below {description.root}.")
    return description.root / entry
