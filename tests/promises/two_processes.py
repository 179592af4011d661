"""Run by torchrun: prints what two processes share, or find together, one JSON line each.

Usage:
    two_processes.py DATA_FILE
    two_processes.py validate ARGUMENTS_OF_TRAIN
"""

import hashlib
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from train import build
from utils.datasets.image_cache import PackedImages, open_image_store
from utils.datasets.index import build_index
from utils.options.parser import parse_request
from utils.runs.run import open_run
from utils.runtime.distributed import distributed_from_environment, process_group
from utils.training.validation import Validator

SIDE = 1600  # 7.7 MB an image


def shared_kilobytes() -> Counter[str]:
    """`Pss` and `Rss` of the mapped cache: PSS divides a page by the number of its processes."""
    found: Counter[str] = Counter()
    of_cache = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            of_cache = "yolov5-extend-" in line
        elif of_cache and name in ("Pss:", "Rss:"):
            found[name[:-1]] += int(rest[0])
    return found


def validation(arguments: list[str]) -> dict[str, Any]:
    """Validate the first state of a run, EMA and non-EMA weights; all processes call this."""
    distributed, device = distributed_from_environment(), torch.device("cpu")
    # Batches have several parts also in this small data set.
    small = mock.patch("utils.evaluation.forward.CPU_CHUNK_PIXELS", 3 * 96 * 96)
    with process_group(distributed, device), small:
        built = build(open_run(parse_request(arguments)), distributed, device)
        options, interrupts = built.run.options, built.interrupts
        validator = Validator(built.evaluator, built.plan, options, distributed, interrupts)
        ema, raw, _ = validator.evaluate_resumed(built.state)
        assert ema is not None
        assert raw is not None
        found: dict[str, Any] = {}
        for name, one in (("ema", ema), ("raw", raw)):
            metrics = (one.precision, one.recall, one.map50, one.map50_95, *one.losses)
            counts = (one.images, one.instances, one.confusion.tolist())
            # A digest, because longer lines of two processes would mix in a pipe.
            curves = one.curves.precision.tobytes() + one.curves.envelope.tobytes()
            found[name] = [metrics, counts, hashlib.sha256(curves).hexdigest()]
        return found


def main() -> None:
    if sys.argv[1] == "validate":
        # Line and line break together, because the processes share a pipe.
        sys.stdout.write(f"{json.dumps(validation(sys.argv[2:]))}\n")
        return
    distributed = distributed_from_environment()
    with process_group(distributed, torch.device("cpu")):
        folder = Path(sys.argv[1]).parent
        with distributed.local_main_first():
            index = build_index([folder / "images" / "train"], ["green", "red"])
        images = open_image_store(
            index,
            SIDE,
            shrink_interpolation=1,
            cache="ram",
            threads=1,
            share=distributed.shared_file,
        )
        assert isinstance(images, PackedImages)
        total = sum(int(images.load(i).sum()) for i in range(len(index)))
        distributed.all_reduce_max(0)  # both have read all pages
        kilobytes = shared_kilobytes()
        distributed.all_reduce_max(0)
        weights = torch.full((3,), float(distributed.rank + 1))
        distributed.broadcast_tensors([weights])
        left = [name for name in os.listdir("/dev/shm") if name.startswith("yolov5-extend-")]  # noqa: S108, PTH208
        found = {"total": total, "weights": weights.tolist(), "left": left, **kilobytes}
        sys.stdout.write(f"{json.dumps(found, sort_keys=True)}\n")


if __name__ == "__main__":
    main()
