"""The options of `val.py`."""

from __future__ import annotations

from dataclasses import dataclass

from utils.errors import UserError
from utils.options.option import IMAGE_SIZE_FLAGS, MAX_IMAGE_SIZE, MAX_WORKERS, check, option

# --task speed measures the latency that a user of detect.py sees, so it uses the thresholds of
# detect.py and not the low ones that a whole PR curve needs.
SPEED_CONF_THRES, SPEED_IOU_THRES = 0.25, 0.45


@dataclass(frozen=True)
class ValOptions:
    """The model, the data set, the thresholds and the output of a validation."""

    data: str = option("coco128.yaml", "data-set file")
    weights: list[str] = option(
        ["yolov5s.pt"],
        "weights file of this project or YOLOv5, or an exported model; several are an ensemble, "
        "whose boxes are joined before NMS (default: {default[0]})",
    )
    batch_size: int = option(32, "images per batch", minimum=1)
    imgsz: int = option(
        640, "image size in pixels", flags=IMAGE_SIZE_FLAGS, minimum=1, maximum=MAX_IMAGE_SIZE
    )
    conf_thres: float = option(
        0.001, f"confidence threshold; {SPEED_CONF_THRES} with --task speed", minimum=0, maximum=1
    )
    iou_thres: float = option(
        0.6, f"IoU threshold of NMS; {SPEED_IOU_THRES} with --task speed", minimum=0, maximum=1
    )
    max_det: int = option(300, "maximum detections per image", minimum=1)
    task: str = option(
        "val",
        "split to validate, or speed: measure the speed on square images of the val split",
        choices=("train", "val", "test", "speed"),
    )
    device: str = option("", "GPU index, cpu or mps (default: first GPU if available, else cpu)")
    workers: int | None = option(
        None, "data-loader processes (default: as many as help)", minimum=0, maximum=MAX_WORKERS
    )
    single_cls: bool = option(False, "treat all classes as one")
    augment: bool = option(False, "test-time augmentation: 3 passes per image; .pt files only")
    verbose: bool = option(False, "print the metrics of each class, even if there are many classes")
    save_txt: bool = option(False, "save detections as label files")
    save_conf: bool = option(False, "add confidences to the label files of --save-txt")
    save_json: bool = option(False, "save results in COCO format and compute the COCO metrics")
    miss_rate: bool = option(False, "compute the log-average miss rate of CityPersons")
    project: str = option("runs/val", "parent folder of runs")
    name: str = option("exp", "name of the run folder, numbered if it exists")
    exist_ok: bool = option(False, "write into an existing run folder")
    half: bool = option(False, "fp16 inference, on a GPU only")
    noplots: bool = option(False, "do not save plots")

    def __post_init__(self) -> None:
        check(self)
        if self.save_conf and not self.save_txt:
            raise UserError("--save-conf needs --save-txt; add --save-txt.")

    @property
    def speed(self) -> bool:
        """Whether to measure the speed: square images, no plots."""
        return self.task == "speed"

    @property
    def split(self) -> str:
        """The split to validate."""
        return "val" if self.speed else self.task
