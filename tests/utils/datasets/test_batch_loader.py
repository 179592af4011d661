"""Failures of resources while batches are loaded become one sentence."""

import errno
import subprocess
import sys
import textwrap
from typing import Any

import cv2
import pytest
from torch.utils.data import Dataset, SequentialSampler

from tests.paths import ROOT
from utils.datasets.batch_loader import batch_loader
from utils.errors import LoadError

SHM = RuntimeError("unable to allocate shared memory(shm) for file </a>: No space left on device")
BUS = RuntimeError(
    "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
    "dataloader's workers are out of shared memory."
)


class Failing(Dataset[Any]):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 2

    def __getitem__(self, i: int) -> Any:
        if i == 1:
            raise self.error
        return "batch"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SHM, "the shared memory is full .*--shm-size or with --ipc=host, or use fewer --workers"),
        (BUS, "the shared memory is full .*--shm-size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"), "memory ran out .*fewer"),
        (RuntimeError("worker (pid(s) 4) exited unexpectedly"), "memory ran out .*fewer --work"),
        (MemoryError(), r"memory ran out \(MemoryError\); use fewer --workers"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory ran out"),
        (OSError(errno.EMFILE, "Too many open files"), "raise it with ulimit -n"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "processes run"),
        (RuntimeError("can't start new thread"), "use fewer --workers"),
        (cv2.error("(-4:Insufficient memory) Failed to allocate 9 bytes"), "memory ran out"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_lack_of_resources_is_one_sentence(error: Exception, message: str, workers: int) -> None:
    dataset = Failing(error)
    order: Any = SequentialSampler(dataset)
    loader = batch_loader(dataset, order, workers, pin_memory=False)
    batches = iter(loader)
    assert next(batches) == "batch"
    with pytest.raises(LoadError, match=f"^batches cannot be loaded: .*{message}") as caught:
        next(batches)
    assert "\n" not in str(caught.value)


def test_other_errors_keep_their_type() -> None:
    dataset = Failing(RuntimeError("shape mismatch"))
    order: Any = SequentialSampler(dataset)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        list(batch_loader(dataset, order, 0, pin_memory=False))


PROGRAM = """
import time, torch
from torch.utils.data import Dataset, SequentialSampler
from utils.datasets.batch_loader import batch_loader
from utils.errors import LoadError

class Big(Dataset):
    def __len__(self):
        return 9
    def __getitem__(self, i):
        return torch.ones(3_000_000, dtype=torch.uint8).share_memory_()

if __name__ == "__main__":
    kept = []
    try:
        for batch in batch_loader(Big(), SequentialSampler(Big()), 1, pin_memory=False):
            kept.append(batch)
    except LoadError as error:
        print(len(kept), error)
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0,
    reason="needs the right to mount; the cases above have the error that it raises",
)
def test_shared_memory_of_a_container_that_fills_up() -> None:
    command = 'mount -t tmpfs -o size=16m tmpfs /dev/shm && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", command, sys.executable, textwrap.dedent(PROGRAM)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.startswith("5 batches cannot be loaded: the shared memory is full (")
