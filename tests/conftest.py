"""Fixtures of all tests."""

import logging
import os
from collections.abc import Iterator

import pytest

# Exact results are promised on a CPU, and a resumed run does not keep the device of the run.
os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def _untouched_logger() -> Iterator[None]:
    """Restores the logger, because a script that runs in a test configures it."""
    logger = logging.getLogger("yolo")
    before = list(logger.handlers), logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate = before[0], before[1]
    logger.setLevel(before[2])
