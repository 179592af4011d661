"""Fixtures of all tests."""

import logging
import os
from collections.abc import Iterator

import pytest

from tests.paths import NEEDS_SHARED

# Exact results are promised on a CPU, and a resumed run does not keep the device of the run.
os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line which tests were skipped because data are missing, and how to run them."""
    reports = terminalreporter.stats.get("skipped", ())
    count = sum(NEEDS_SHARED in str(report.longrepr) for report in reports)
    if count:
        terminalreporter.write_line(
            f"{count} tests were skipped: they need yolov5n.pt, COCO128, BCCD, CityPersons or "
            "checkpoints of YOLOv5. To run them, set YOLO_DATASETS_DIR to the datasets folder "
            "beside weights/, images/, legacy/ and goldens/."
        )


@pytest.fixture(autouse=True)
def _untouched_logger() -> Iterator[None]:
    """Restores the logger, because a script that runs in a test configures it."""
    logger = logging.getLogger("yolo")
    before = list(logger.handlers), logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate = before[0], before[1]
    logger.setLevel(before[2])
