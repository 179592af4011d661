"""Where the reference data lies: outside the repository, in the folder above YOLO_DATASETS_DIR."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("YOLO_DATASETS_DIR", ROOT.parent / "shared" / "datasets")).resolve().parent
GOLDENS = SHARED / "goldens"

requires_shared = pytest.mark.skipif(
    not GOLDENS.is_dir(),
    reason=f"reference numbers are not at {GOLDENS}; set YOLO_DATASETS_DIR to the folder beside them",
)
