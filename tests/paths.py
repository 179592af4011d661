"""Paths of the reference data, and the mark of the tests that need more than the repository has."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATASETS = Path(os.environ.get("YOLO_DATASETS_DIR", ROOT.parent / "shared" / "datasets"))
SHARED = DATASETS.resolve().parent
GOLDENS = ROOT / "tests" / "goldens"
"""Expected numbers that need neither images nor weights."""
SHARED_GOLDENS = SHARED / "goldens"
"""Expected numbers for published weights and data sets, outside the repository."""

NEEDS_SHARED = "needs published weights and data sets"
requires_shared = pytest.mark.skipif(
    not SHARED_GOLDENS.is_dir(), reason=f"{NEEDS_SHARED}; {SHARED_GOLDENS} does not exist"
)
