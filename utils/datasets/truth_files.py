"""Ground truth in the formats of benchmarks, which a data-set file may name beside the labels."""

from __future__ import annotations

from pathlib import Path

from utils.datasets.description import DatasetDescription
from utils.errors import UserError
from utils.yaml_files import read_yaml

MISS_RATE = "miss_rate_gt"
"""Ground truth of the val split in CityPersons' format."""
COCO = "annotations"
"""Ground truth of the val split in COCO's format."""


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
