"""Where the reference data lies: outside the repository, in the folder above YOLO_DATASETS_DIR."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATASETS = Path(os.environ.get("YOLO_DATASETS_DIR", ROOT.parent / "shared" / "datasets"))
SHARED = DATASETS.resolve().parent
GOLDENS = SHARED / "goldens"

requires_shared = pytest.mark.skipif(
    not GOLDENS.is_dir(),
    reason=f"no reference numbers at {GOLDENS}; set YOLO_DATASETS_DIR to the folder beside them",
)
