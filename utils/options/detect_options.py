"""The options of `detect.py`."""

from __future__ import annotations

from dataclasses import dataclass

from utils.errors import UserError
from utils.options.option import IMAGE_SIZE_FLAGS, MAX_IMAGE_SIZE, check, option

MAX_SIZES = 2
"""Of --imgsz: height and width."""


SAMPLES = "data/images"


@dataclass(frozen=True)
class DetectOptions:
    """The model, the source, the thresholds and the output of a detection run."""

    weights: list[str] = option(
        ["yolov5s.pt"],
        "weights file of this project or YOLOv5, or an exported model; several are an ensemble, "
        "whose boxes are joined before NMS (default: {default[0]})",
    )
    source: list[str] = option(
        [SAMPLES],
        "image, video, folder, glob, list.txt, list.streams, URL, camera or screen; several are "
        "allowed (default: two sample images, drawn at the first use)",
        repeatable=True,
    )
    data: str = option("", "data-set file with the class names (default: names in the weights)")
    imgsz: list[int] = option(
        [640],
        "image size in pixels, or height and width (default: {default[0]})",
        flags=IMAGE_SIZE_FLAGS,
        minimum=1,
        maximum=MAX_IMAGE_SIZE,
    )
    conf_thres: float = option(0.25, "confidence threshold", minimum=0, maximum=1)
    batch_size: int = option(1, "images of equal shape per forward pass", minimum=1)
    iou_thres: float = option(0.45, "IoU threshold of NMS", minimum=0, maximum=1)
    max_det: int = option(1000, "maximum detections per image", minimum=1)
    device: str = option("", "GPU index, cpu or mps (default: first GPU if available, else cpu)")
    view_img: bool = option(False, "show the results in a window; press q to stop")
    save_txt: bool = option(False, "save detections as label files")
    save_format: int = option(0, "format of the label files: 0 YOLO, 1 VOC", choices=(0, 1))
    save_csv: bool = option(False, "save detections to predictions.csv")
    save_conf: bool = option(False, "add confidences to the label files of --save-txt")
    save_crop: bool = option(False, "save a crop of each detection")
    nosave: bool = option(False, "do not save annotated images and videos")
    classes: list[int] | None = option(
        None, "class indices to detect, e.g. --classes 0 2 3 (default: all)"
    )
    agnostic_nms: bool = option(False, "class-agnostic NMS")
    augment: bool = option(False, "test-time augmentation: 3 passes per image; .pt files only")
    project: str = option("runs/detect", "parent folder of runs")
    name: str = option("exp", "name of the run folder, numbered if it exists")
    exist_ok: bool = option(False, "write into an existing run folder")
    line_thickness: int = option(3, "line width of boxes in pixels", minimum=1, maximum=1000)
    hide_labels: bool = option(False, "hide class names and confidences")
    hide_conf: bool = option(False, "hide confidences")
    half: bool = option(False, "fp16 inference, on a GPU only")
    vid_stride: int = option(1, "process every N-th video frame", minimum=1)

    def __post_init__(self) -> None:
        check(self)
        if len(self.imgsz) > MAX_SIZES:
            sizes = " ".join(map(str, self.imgsz))
            raise UserError(f"--imgsz {sizes}: give one size, or the height and the width.")
