"""Run by torchrun with a data-set file: prints what two processes share, one JSON line each."""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import torch

from utils.datasets.image_cache import PackedImages, open_image_store
from utils.datasets.index import build_index
from utils.runtime.distributed import distributed_from_environment, process_group

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


def main() -> None:
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
        print(json.dumps(found, sort_keys=True), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
