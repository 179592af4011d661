"""Writes the results of detect.py: annotated images and videos, label files, crops, a CSV table."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from utils.errors import UserError
from utils.files.atomic_write import REMEDIES
from utils.inference.sources import SourceImage, file_name
from utils.plots.images import class_color, draw_boxes, write_image

WRITABLE = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
CROP_GROWTH, CROP_BORDER = 1.02, 10  # a crop is 2 % plus 10 px (5 per side) larger than its box
YOLO, VOC = 0, 1  # values of --save-format
INVALID_NAME_CHARACTERS = r"[^\w.\- ]+"
CSV_HEADER = ("Image Name", "Prediction", "Confidence")


@dataclass(frozen=True)
class OutputSettings:
    """Which files to write, and how."""

    images: bool = True
    txt: bool = False
    txt_format: int = YOLO
    txt_confidence: bool = False
    csv: bool = False
    crops: bool = False
    line_thickness: int = 3
    hide_labels: bool = False
    hide_conf: bool = False


class PredictionFiles:
    """Writes detections to a folder; a context manager, which closes videos at its end.

    Args:
        folder: an existing folder.
        names: class names by index.
        settings: what to write.
    """

    def __init__(self, folder: Path, names: Sequence[str], settings: OutputSettings) -> None:
        self._folder, self._names, self._settings = folder, names, settings
        self._stems: dict[str, str] = {}  # stem of the outputs -> source
        self._video: tuple[str, cv2.VideoWriter, Path] | None = None  # source, open writer, file
        self.label_files = 0

    def __enter__(self) -> PredictionFiles:
        if self._settings.csv:
            with (self._folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(CSV_HEADER)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._close_video(check=kind is None)

    def annotate(self, loaded: SourceImage, detections: np.ndarray) -> np.ndarray:
        """Return the original image (BGR) with detections [n, 6], the most confident on top."""
        worst_first = detections[::-1]
        classes = [int(label) for label in worst_first[:, 5]]
        return draw_boxes(
            loaded.original,
            worst_first[:, :4],
            [self._caption(label, row[4]) for label, row in zip(classes, worst_first, strict=True)],
            [class_color(label) for label in classes],
            self._settings.line_thickness,
        )

    def write(
        self, loaded: SourceImage, detections: np.ndarray, annotated: np.ndarray | None = None
    ) -> None:
        """Write all files that the settings ask for.

        Args:
            loaded: the image or frame.
            detections: [n, 6] corners in pixels of the original, confidence, class; best first.
            annotated: the result of `annotate`, if the caller has it already.

        Raises:
            UserError: a file cannot be written.
        """
        try:
            self._write(loaded, detections, annotated)
        except OSError as error:
            remedy = REMEDIES.get(error.errno or 0, "choose another --project")
            where = error.filename or self._folder
            raise UserError(f"cannot write {where}: {error.strerror}; {remedy}.") from error

    def _write(
        self, loaded: SourceImage, detections: np.ndarray, annotated: np.ndarray | None
    ) -> None:
        stem = self._stem(loaded.path)
        frame = f"{stem}_{loaded.frame}" if loaded.kind == "video" else stem
        worst_first = detections[::-1]  # the order of the lines in upstream's files
        if self._settings.txt and len(detections):
            self._write_labels(frame, loaded.original.shape[:2], worst_first)
        if self._settings.csv:
            self._write_rows(loaded, worst_first)
        if self._settings.crops:
            self._write_crops(frame, loaded.original, worst_first)
        if self._settings.images:
            drawn = self.annotate(loaded, detections) if annotated is None else annotated
            self._write_image(loaded, stem, drawn)

    def _caption(self, label: int, confidence: float) -> str | None:
        if self._settings.hide_labels:
            return None
        name = self._names[label]
        return name if self._settings.hide_conf else f"{name} {confidence:.2f}"

    def _stem(self, source: str) -> str:
        """Return the stem of a source's output files; numbers avoid conflicts between sources."""
        stem = file_name(source).stem
        candidate, number = stem, 2
        while self._stems.setdefault(candidate, source) != source:
            candidate, number = f"{stem}{number}", number + 1
        return candidate

    def _write_labels(self, name: str, shape: Sequence[int], detections: np.ndarray) -> None:
        folder = self._folder / "labels"
        folder.mkdir(exist_ok=True)
        height, width = shape
        lines = []
        for x1, y1, x2, y2, confidence, label in detections.tolist():
            values = [x1, y1, x2, y2]
            if self._settings.txt_format == YOLO:
                values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height]
                values += [(x2 - x1) / width, (y2 - y1) / height]
            if self._settings.txt_confidence:
                values.append(confidence)
            lines.append(" ".join(f"{value:g}" for value in (label, *values)) + "\n")
        (folder / f"{name}.txt").write_text("".join(lines))
        self.label_files += 1

    def _write_rows(self, loaded: SourceImage, detections: np.ndarray) -> None:
        rows = [
            (file_name(loaded.path).name, self._names[int(label)], f"{confidence:.2f}")
            for *_, confidence, label in detections.tolist()
        ]
        with (self._folder / "predictions.csv").open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)

    def _write_crops(self, name: str, image: np.ndarray, detections: np.ndarray) -> None:
        for number, row in enumerate(detections, start=1):
            label = (
                re.sub(INVALID_NAME_CHARACTERS, "_", self._names[int(row[5])]).strip(". ") or "_"
            )
            folder = self._folder / "crops" / label
            folder.mkdir(parents=True, exist_ok=True)
            crop = crop_box(image, row[:4])
            write_image(folder / f"{name}{'' if number == 1 else number}.jpg", crop)

    def _write_image(self, loaded: SourceImage, stem: str, annotated: np.ndarray) -> None:
        if loaded.kind == "video":
            self._video_writer(loaded, stem).write(annotated)
            return
        suffix = file_name(loaded.path).suffix.lower()
        suffix = suffix if suffix in WRITABLE else ".jpg"
        write_image(self._folder / f"{stem}{suffix}", annotated)

    def _video_writer(self, loaded: SourceImage, stem: str) -> cv2.VideoWriter:
        if self._video is not None and self._video[0] == loaded.path:
            return self._video[1]
        self._close_video()
        height, width = loaded.original.shape[:2]
        path = self._folder / f"{stem}.mp4"
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(path), codec, loaded.fps, (width, height))
        if not writer.isOpened():
            raise UserError(
                f"cannot write {path}: OpenCV cannot open an MP4 writer; "
                "use --nosave, or --nosave with --save-txt."
            )
        self._video = (loaded.path, writer, path)
        return writer

    def _close_video(self, *, check: bool = True) -> None:
        if self._video is None:
            return
        (_, writer, path), self._video = self._video, None
        writer.release()
        # OpenCV reports no errors of writing.
        if check and not cv2.VideoCapture(str(path)).isOpened():
            raise UserError(
                f"cannot write {path}: it is incomplete, probably because the disk is full; free "
                "disk space, then run again."
            )


def crop_box(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the part of an image around a box (corners, px), a little larger than the box."""
    height, width = image.shape[:2]
    centre, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    half = (size * CROP_GROWTH + CROP_BORDER) / 2
    x1, y1 = np.maximum(centre - half, 0).astype(int)
    x2, y2 = np.minimum(centre + half, (width, height)).astype(int)
    return image[y1:y2, x1:x2]


def count_detections(labels: Iterable[float], names: Mapping[int, str] | Sequence[str]) -> str:
    """Return the number of detections of each class, as in `2 persons, 1 bus`."""
    counts = sorted(Counter(map(int, labels)).items())
    found = [f"{n} {names[label]}{'s' * (n > 1)}" for label, n in counts]
    return ", ".join(found) or "(no detections)"
