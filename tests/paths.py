"""Paths of the reference data: outside the repository, in the parent of YOLO_DATASETS_DIR."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATASETS = Path(os.environ.get("YOLO_DATASETS_DIR", ROOT.parent / "shared" / "datasets"))
SHARED = DATASETS.resolve().parent
GOLDENS = SHARED / "goldens"

requires_shared = pytest.mark.skipif(
    not GOLDENS.is_dir(),
    reason=f"{GOLDENS} does not exist; set YOLO_DATASETS_DIR to the data-set folder next to it",
)
