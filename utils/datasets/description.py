"""The data-set file: locations of the images, class names, and how to get the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from reprlib import repr as shortened
from urllib.parse import urlsplit

from utils.datasets.acquire import (
    Archive,
    MissingDataError,
    download_dataset,
    missing_dataset_error,
)
from utils.datasets.locate import find_root, moved_copy
from utils.errors import UserError
from utils.files.download import is_url
from utils.files.yaml_file import read_yaml

DATA_FOLDER = Path(__file__).resolve().parents[2] / "data"
SPLITS = ("train", "val", "test")
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


def load_description(data: str | Path) -> DatasetDescription:
    """Read and validate a data-set file. It is also looked for in data/ and $YOLO_DATASETS_DIR.

    Raises:
        UserError: the file does not exist, or an entry is missing, unknown or inconsistent.
    """
    try:
        path = _find_file(Path(data))
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise UserError(f"{path} has no keys; add `train:`, `val:` and `names:`.")
        return _described(content, path)
    except OSError as error:  # for example a name that is too long for the file system
        raise UserError(
            f"cannot read {data}: {error.strerror}: {shortened(error.filename)}; correct the path."
        ) from error


def _described(content: Mapping[str, object], path: Path) -> DatasetDescription:
    entry = _text(content, "path", path)
    try:
        root = find_root(entry, path.parent)
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
        names=_names(content, path),
        download=_archives(content.get("download"), path),
        embedded=embedded == STREETS,
        scripted=_is_script(content.get("download")),
        obtain=_text(content, "obtain", path).strip(" \n.;"),
    )


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
        raise UserError(
            f"{missing} does not exist, so the data set {root} is incomplete; {remedy}, "
            f"or correct {description.path}."
        )
    if description.scripted:
        why = f"the `download:` entry of {description.path} is a script, which is never run"
        raise missing_dataset_error(root, why, obtain or "read the script and get the data by hand")
    if not description.embedded and not description.download:
        raise missing_dataset_error(root, f"{description.path} has no download address", obtain)


def _missing(description: DatasetDescription, splits: Sequence[str]) -> Path | None:
    """Return the first folder or list of `splits` that does not exist."""
    sources = [source for name in splits for source in description.split(name)]
    return next((source for source in sources if not source.exists()), None)


def _find_file(data: Path) -> Path:
    for candidate in (data, DATA_FOLDER / data.name, DATA_FOLDER / f"{data.name}.yaml"):
        if candidate.is_file():
            return candidate
    moved = moved_copy(data)
    if moved is not None and moved.is_file():
        return moved
    raise MissingDataError(
        f"data-set file {data} does not exist",
        f"give the path of a file, or the name of one in {DATA_FOLDER.name}/",
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
    source = root / entry
    inside = root / entry.removeprefix("../")
    # Exports of labelling services say ../train/images for a folder beside the file.
    return inside if not source.exists() and inside.exists() else source


def _names(content: Mapping[str, object], path: Path) -> tuple[str, ...]:
    """Return the class names from a list or an index → name map; check them against `nc`."""
    entry = content.get("names")
    if isinstance(entry, dict):
        if sorted(entry, key=str) != sorted(range(len(entry)), key=str):
            raise UserError(f"{path}: the keys of `names:` must be 0, 1, 2 … without a gap.")
        entry = [entry[index] for index in range(len(entry))]
    if not isinstance(entry, list) or not entry:
        raise UserError(
            f"{path} has no class names; add `names:`, a list or a map from index to name."
        )
    count = content.get("nc", len(entry))
    if count != len(entry):
        raise UserError(
            f"{path}: `nc:` is {shortened(count)}, but `names:` has {len(entry)} entries; "
            "correct one of them."
        )
    if any(isinstance(name, (dict, list)) for name in entry):
        raise UserError(f"{path}: an entry of `names:` is a list or a map; it must be one name.")
    return tuple(map(str, entry))


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
            f"{path}: `download:` has the entry {shortened(item)}; "
            "it must be a URL, or a map with `url` and `folder`."
        )
    archive = Archive(str(item["url"]), str(item.get("folder", ".")))
    folder = PurePosixPath(archive.folder)
    try:
        urlsplit(archive.url)
    except ValueError as error:
        raise UserError(
            f"{path}: `download:` has the invalid URL {archive.url} ({error}); correct it."
        ) from error
    if not is_url(archive.url) or folder.is_absolute() or ".." in folder.parts:
        raise UserError(
            f"{path}: `download:` has the URL {archive.url} and the folder {archive.folder}; "
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
