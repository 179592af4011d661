"""What every test starts from."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _untouched_logger() -> Iterator[None]:
    """A script that is run inside a test sets up logging, which must not outlive the test."""
    logger = logging.getLogger("yolo")
    before = list(logger.handlers), logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate = before[0], before[1]
    logger.setLevel(before[2])
