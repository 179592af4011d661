"""The options of `export.py`."""

from __future__ import annotations

from dataclasses import dataclass

from utils.errors import UserError
from utils.options.option import IMAGE_SIZE_FLAGS, check, flag_of, option

FORMATS = ("yolov5", "onnx", "torchscript", "openvino")
MIN_OPSET, MAX_OPSET = 12, 20
"""ONNX operator sets that torch's exporter writes."""
MAX_SIZES = 2
"""Of --imgsz: height and width."""


@dataclass(frozen=True)
class ExportOptions:
    """The model, the formats, and what the exported models compute."""

    weights: str = option("yolov5s.pt", "weights file of this project or YOLOv5")
    include: list[str] = option(
        ["torchscript"], "formats to write (default: {default[0]})", choices=FORMATS
    )
    imgsz: list[int] = option(
        [640],
        "image size in pixels, or height and width (default: {default[0]})",
        flags=IMAGE_SIZE_FLAGS,
        minimum=1,
    )
    batch_size: int = option(1, "images per call", minimum=1)
    dynamic: bool = option(False, "accept any number of images, and of any size")
    heads: str = option(
        "decoded",
        "outputs; decoded: boxes in pixels and scores; raw or sigmoid: one map per level, and "
        "anchors.txt",
        choices=("decoded", "raw", "sigmoid"),
    )
    half: bool = option(False, "fp16 weights and inputs; for openvino, weights only")
    device: str = option("cpu", "GPU index or cpu")
    data: str = option(
        "", "data-set file with images to compare the formats on (default: drawn street scenes)"
    )
    opset: int = option(
        17, "ONNX operator set", minimum=MIN_OPSET, maximum=MAX_OPSET, group="onnx and openvino"
    )
    simplify: bool = option(False, "simplify the ONNX graph with onnxslim")
    nms: bool = option(False, "add non-maximum suppression to the ONNX model")
    conf_thres: float = option(0.25, "confidence threshold of --nms", minimum=0, maximum=1)
    iou_thres: float = option(0.45, "IoU threshold of --nms", minimum=0, maximum=1)
    topk_per_class: int = option(
        100, "maximum detections per image and class with --nms", minimum=1
    )
    optimize: bool = option(False, "optimize the TorchScript model for mobile CPUs")

    def __post_init__(self) -> None:
        check(self)
        if len(self.imgsz) > MAX_SIZES:
            sizes = " ".join(map(str, self.imgsz))
            raise UserError(f"--imgsz {sizes}: give one size, or the height and the width.")
        needs = {
            **dict.fromkeys(("simplify", "nms"), ("onnx",)),
            **dict.fromkeys(("opset",), ("onnx", "openvino")),
            **dict.fromkeys(("conf_thres", "iou_thres", "topk_per_class"), ("onnx",)),
            "optimize": ("torchscript",),
            **dict.fromkeys(("dynamic", "heads", "half"), FORMATS[1:]),
        }
        for name, formats in needs.items():
            if getattr(self, name) != getattr(ExportOptions, name, None):
                self._require(name, formats)
        self._check_nms()
        if self.optimize and (self.device != "cpu" or self.half):
            raise UserError("--optimize is for CPUs; use it with --device cpu and without --half.")

    @property
    def outputs(self) -> str:
        """What the exported models return: decoded, raw, sigmoid or nms."""
        return "nms" if self.nms else self.heads

    def _require(self, name: str, formats: tuple[str, ...]) -> None:
        if not {*formats} & {*self.include}:
            raise UserError(
                f"{flag_of(name)} has no effect on {' and '.join(self.include)}; omit it, or add "
                f"{' or '.join(formats)} to --include."
            )

    def _check_nms(self) -> None:
        if self.nms and (self.heads != "decoded" or {*self.include} - {"onnx", "yolov5"}):
            raise UserError(
                "--nms is for ONNX models with decoded boxes; export other formats and --heads "
                "separately, without --nms."
            )
        for name in ("conf_thres", "iou_thres", "topk_per_class"):
            if not self.nms and getattr(self, name) != getattr(ExportOptions, name):
                raise UserError(f"{flag_of(name)} needs --nms; add --nms or omit it.")
