"""The data-set file: where images are, what their classes are called, how to get them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from reprlib import repr as shortened
from urllib.parse import urlsplit

from utils.datasets.acquire import Archive, absence, acquire
from utils.datasets.locate import find_root
from utils.errors import UserError
from utils.files.download import is_address
from utils.files.yaml_file import read_yaml

DATA_FOLDER = Path(__file__).resolve().parents[2] / "data"
SPLITS = ("train", "val", "test")
STREETS = "streets"
"""The `embedded:` entry of the drawn street scenes, the only such data set."""
MISS_RATE = "miss_rate_gt"
"""Ground truth of the val split in CityPersons' format."""
COCO = "annotations"
"""Ground truth of the val split in COCO's format."""


@dataclass(frozen=True)
class DatasetDescription:
    """A data-set file, read and checked; nothing is known yet of the images."""

    path: Path
    """The YAML file."""
    root: Path
    """The data set's folder, which need not exist yet."""
    train: tuple[Path, ...]
    """Folders of images and .txt files that list images; empty if the file has no such line."""
    val: tuple[Path, ...]
    test: tuple[Path, ...]
    names: tuple[str, ...]
    """Class names by index."""
    download: tuple[Archive, ...] = ()
    """Archives to fetch when the folder is missing."""
    embedded: bool = False
    """Whether it is the drawn street scenes, which are made on first use."""
    scripted: bool = False
    """Whether `download:` is a script, made for another program; it is never run."""
    obtain: str = ""
    """How the user gets data that cannot be downloaded, half a sentence for messages."""

    def split(self, name: str) -> tuple[Path, ...]:
        """The sources of `train`, `val` or `test`.

        Raises:
            UserError: the file has no such line.
        """
        sources = {"train": self.train, "val": self.val, "test": self.test}[name]
        if not sources:
            raise UserError(f"{self.path} has no `{name}:` images; add the line or choose another.")
        return sources


def load_description(data: str | Path) -> DatasetDescription:
    """Read a data-set file; a bare name is looked for in data/ too.

    Raises:
        UserError: no such file, or something in it is missing, unknown or contradictory.
    """
    try:
        path = _find_file(Path(data))
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise UserError(f"{path} must hold `train:`, `val:` and `names:` lines.")
        return _described(content, path)
    except OSError as error:  # such as a name longer than the file system takes
        raise UserError(f"{data}: {error.strerror}: {shortened(error.filename)}.") from error


def _described(content: Mapping[str, object], path: Path) -> DatasetDescription:
    entry = _text(content, "path", path)
    try:
        root = find_root(entry, path.parent)
    except RuntimeError as error:
        raise UserError(f"{path}: `path: {entry}` is the home folder of nobody here.") from error
    splits = {name: _sources(content.get(name), root, f"{path}: {name}") for name in SPLITS}
    if not any(splits.values()):
        raise UserError(f"{path} names no images; add `train:` and `val:` lines.")
    embedded = content.get("embedded")
    if embedded not in (None, STREETS):
        raise UserError(
            f"{path}: no data set {shortened(embedded)} is embedded; `embedded:` takes {STREETS}."
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
    """Make or download the data set if the folders and lists of `splits` are not there.

    Raises:
        UserError: they are not there and cannot be had; it says where to put them.
    """
    if _missing(description, splits) is None:
        return
    require_obtainable(description, splits)
    if description.embedded:
        from data.streets.make import make_streets

        make_streets(description.root)
    else:
        acquire(description.root, description.download, description.obtain)
    missing = _missing(description, splits)
    if missing is not None:
        raise UserError(
            f"{missing} is not there even after getting the data set of {description.path}."
        )


def require_obtainable(
    description: DatasetDescription, splits: Sequence[str] = ("train", "val")
) -> None:
    """Refuse a data set that is not there and must be got by hand; cheap, nothing is fetched.

    Raises:
        UserError: it says what to get where, as far as the data-set file knows.
    """
    missing = _missing(description, splits)
    if missing is None:
        return
    root, obtain = description.root, description.obtain
    if root.is_dir() and any(root.iterdir()):
        to_be_had = description.embedded or description.download
        anew = ", or move it away to get it anew" if to_be_had else ""
        remedy = obtain or f"complete it{anew}"
        raise UserError(
            f"the data set at {root} is incomplete, {missing} is not there; {remedy}, "
            f"or correct {description.path}."
        )
    if description.scripted:
        why = f"and the `download:` of {description.path} is a script, which is never run"
        raise absence(root, why, obtain or "read it and get the data by hand")
    if not description.embedded and not description.download:
        raise absence(root, "and its file has no address to download it from", obtain)


def _missing(description: DatasetDescription, splits: Sequence[str]) -> Path | None:
    """The first folder or list of `splits` that is not there."""
    sources = [source for name in splits for source in description.split(name)]
    return next((source for source in sources if not source.exists()), None)


def _find_file(data: Path) -> Path:
    for candidate in (data, DATA_FOLDER / data.name, DATA_FOLDER / f"{data.name}.yaml"):
        if candidate.is_file():
            return candidate
    raise UserError(f"data-set file {data} does not exist; ready ones are in {DATA_FOLDER.name}/.")


def _text(content: Mapping[str, object], key: str, path: Path) -> str:
    value = content.get(key)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{path}: `{key}:` is {shortened(value)}; it must be a text.")
    return value or ""


def _sources(entry: object, root: Path, origin: str) -> tuple[Path, ...]:
    """Absolute paths of a split, which is a path or a list of paths relative to the root."""
    entries: list[object] = [] if entry is None else entry if isinstance(entry, list) else [entry]
    paths = [item for item in entries if isinstance(item, str) and item]
    if len(paths) < len(entries):
        raise UserError(f"{origin} is {shortened(entry)}; it must be a path or a list of paths.")
    return tuple(_source(path, root) for path in paths)


def _source(entry: str, root: Path) -> Path:
    source = root / entry
    inside = root / entry.removeprefix("../")
    # Files of labelling services say ../train/images for a folder that lies beside the file.
    return inside if not source.exists() and inside.exists() else source


def _names(content: Mapping[str, object], path: Path) -> tuple[str, ...]:
    """Class names from a list or an index → name map, in accordance with `nc` if that is there."""
    entry = content.get("names")
    if isinstance(entry, dict):
        if sorted(entry, key=str) != sorted(range(len(entry)), key=str):
            raise UserError(f"{path}: the keys of `names:` must be 0, 1, 2 … without a gap.")
        entry = [entry[index] for index in range(len(entry))]
    if not isinstance(entry, list) or not entry:
        raise UserError(f"{path} must have `names:`, a list or an index: name map of the classes.")
    count = content.get("nc", len(entry))
    if count != len(entry):
        raise UserError(
            f"{path}: nc is {shortened(count)}, but names has {len(entry)} entries; "
            "make them agree."
        )
    if any(isinstance(name, (dict, list)) for name in entry):
        raise UserError(f"{path}: an entry of `names:` is not one name but a list or a map.")
    return tuple(map(str, entry))


def _archives(entry: object, path: Path) -> tuple[Archive, ...]:
    """What `download:` says: an address, or a list of addresses and `url`, `folder` maps.

    A script, as some files written for other programs have it, gives no archives.
    """
    if entry is None or _is_script(entry):
        return ()
    items = entry if isinstance(entry, list) else [entry]
    return tuple(_archive(item, path) for item in items)


def _is_script(entry: object) -> bool:
    """Whether a `download:` entry is a text other than an address."""
    return isinstance(entry, str) and not is_address(entry)


def _archive(item: object, path: Path) -> Archive:
    if isinstance(item, str):
        item = {"url": item}
    if not isinstance(item, dict) or not {"url"} <= set(item) <= {"url", "folder"}:
        raise UserError(f"{path}: a `download:` entry is an address, or a map of url and folder.")
    archive = Archive(str(item["url"]), str(item.get("folder", ".")))
    folder = PurePosixPath(archive.folder)
    try:
        urlsplit(archive.url)
    except ValueError as error:
        raise UserError(f"{path}: `download:` has no usable address ({error}).") from error
    if not is_address(archive.url) or folder.is_absolute() or ".." in folder.parts:
        raise UserError(
            f"{path}: `download:` needs http(s) addresses and folders inside the data set, "
            f"not {archive.url} and {archive.folder}."
        )
    return archive


def truth_file(description: DatasetDescription, key: str) -> Path | None:
    """The file that a data-set file names under `key`, which need not exist; None without the key.

    Raises:
        UserError: the key does not hold a path.
    """
    content = read_yaml(description.path)
    entry = content.get(key) if isinstance(content, dict) else None
    if entry is None:
        return None
    if not isinstance(entry, str) or not entry:
        raise UserError(f"{description.path}: `{key}:` must be a path below {description.root}.")
    return description.root / entry
