"""What `val.py` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from utils.errors import UserError
from utils.options.option import check, option

TOO_FEW = "{flag} {value}: give a number of at least {minimum}."
# --task speed times what a user of detect.py waits for, without the far end of the PR curve.
SPEED_CONF_THRES, SPEED_IOU_THRES = 0.25, 0.45


@dataclass(frozen=True)
class ValOptions:
    """What to validate, on what, and what to write."""

    data: str = option("coco128.yaml", "data-set file")
    weights: str = option("yolov5s.pt", "weights file, ours or upstream's")
    batch_size: int = option(32, "images per batch", minimum=1, refusal=TOO_FEW)
    imgsz: int = option(
        640, "pixels of the long side", flags=("--img", "--img-size"), minimum=1, refusal=TOO_FEW
    )
    conf_thres: float = option(
        0.001, f"least confidence; {SPEED_CONF_THRES} for speed", minimum=0, maximum=1
    )
    iou_thres: float = option(
        0.6, f"overlap in NMS; {SPEED_IOU_THRES} for speed", minimum=0, maximum=1
    )
    max_det: int = option(300, "most detections per image", minimum=1, refusal=TOO_FEW)
    task: str = option(
        "val",
        "split to validate on, or speed: square images of the val split, no pictures",
        choices=("train", "val", "test", "speed"),
    )
    device: str = option("", "cpu, mps or the number of a GPU; first GPU, else cpu, if empty")
    workers: int = option(8, "loader processes", minimum=0, refusal=TOO_FEW)
    single_cls: bool = option(False, "treat all classes as one")
    verbose: bool = option(False, "print a row per class, however many there are")
    save_txt: bool = option(False, "write detections as label files")
    save_conf: bool = option(False, "add the confidence to --save-txt")
    save_json: bool = option(False, "write COCO results, and judge them as COCO does")
    miss_rate: bool = option(False, "log-average miss rate, as CityPersons' benchmark")
    project: str = option("runs/val", "folder of runs")
    name: str = option("exp", "folder of this run")
    exist_ok: bool = option(False, "write into an existing folder")
    half: bool = option(False, "fp16, on a GPU")
    noplots: bool = option(False, "draw no pictures")

    def __post_init__(self) -> None:
        check(self)
        if self.save_conf and not self.save_txt:
            raise UserError("--save-conf adds to the files of --save-txt; give that too.")

    @property
    def speed(self) -> bool:
        """Whether to measure the speed: square images, no pictures."""
        return self.task == "speed"

    @property
    def split(self) -> str:
        """The split to validate on."""
        return "val" if self.speed else self.task
