"""What `detect.py` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from utils.errors import UserError
from utils.options.option import check, option

MAX_SIZES = 2
"""Of --imgsz: height and width."""
WRONG_SIZE = "--imgsz: give one size, or the height and the width, in pixels."


@dataclass(frozen=True)
class DetectOptions:
    """What to detect, in what, and what to write."""

    weights: str = option("yolov5s.pt", "weights file, ours or upstream's")
    source: str = option("data/images", "file, folder, glob, list.txt, URL or camera")
    data: str = option("", "data-set file to take class names from instead of the weights")
    imgsz: list[int] = option(
        [640], "size, or h w, px", flags=("--img", "--img-size"), minimum=1, refusal=WRONG_SIZE
    )
    conf_thres: float = option(0.25, "least confidence", minimum=0, maximum=1)
    iou_thres: float = option(0.45, "overlap in NMS", minimum=0, maximum=1)
    max_det: int = option(1000, "most detections per image", minimum=1)
    device: str = option("", "number of a GPU, or cpu")
    view_img: bool = option(False, "show the results in a window; q stops")
    save_txt: bool = option(False, "write detections as label files")
    save_format: int = option(0, "of label files: 0 YOLO, 1 VOC", choices=(0, 1))
    save_csv: bool = option(False, "write predictions.csv")
    save_conf: bool = option(False, "write confidences into label files")
    save_crop: bool = option(False, "write a cut-out of every detection")
    nosave: bool = option(False, "write no pictures and videos")
    classes: list[int] | None = option(None, "detect these only: --classes 0 2 3")
    agnostic_nms: bool = option(False, "different classes suppress each other too")
    project: str = option("runs/detect", "folder of runs")
    name: str = option("exp", "folder of this run, numbered if it is taken")
    exist_ok: bool = option(False, "use the folder even if it is taken")
    line_thickness: int = option(3, "of the boxes, px", minimum=1)
    hide_labels: bool = option(False, "draw boxes without names")
    hide_conf: bool = option(False, "draw names without confidences")
    half: bool = option(False, "compute in fp16, on a GPU")
    vid_stride: int = option(1, "look at every n-th frame of videos", minimum=1)

    def __post_init__(self) -> None:
        check(self)
        if len(self.imgsz) > MAX_SIZES:
            raise UserError(WRONG_SIZE)
