"""Writes the results of detect.py: annotated images and videos, label files, crops, a CSV table."""

from __future__ import annotations

import csv
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from utils.errors import UserError
from utils.files.atomic_write import REMEDIES
from utils.files.unique_names import unique_name
from utils.inference.sources import SourceImage, file_name
from utils.plots.fonts import drawable_names
from utils.plots.images import class_color, draw_boxes, write_image

log = logging.getLogger("yolo")

Source = tuple[str, int]  # path, and index of the file: a file may be given twice
WRITABLE = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
CROP_GROWTH, CROP_BORDER = 1.02, 10  # a crop is 2 % plus 10 px (5 per side) larger than its box
YOLO, VOC = 0, 1  # values of --save-format
MAX_NAME_BYTES = 255  # of a file name, where the system does not say
MAX_SHOWN = 40  # characters of a long name in a message
APPENDIX_BYTES = 24  # what follows a stem at most: numbers of the source, frame and crop, a suffix
INVALID_NAME_CHARACTERS = r"[^\w.\- ]+"
FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
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


class _Video(NamedTuple):
    """A video that is being written."""

    writer: cv2.VideoWriter
    path: Path
    size: tuple[int, int]
    """(width, height) of its frames, px."""


class PredictionFiles:
    """Writes detections to a folder; a context manager, which closes videos at its end.

    Args:
        folder: an existing folder.
        names: class names by index.
        settings: what to write.
    """

    def __init__(self, folder: Path, names: Sequence[str], settings: OutputSettings) -> None:
        self._folder, self._names, self._settings = folder, names, settings
        self._stems: dict[str, Source] = {}  # stem of the outputs -> source
        self._labels: dict[str, tuple[Source, int]] = {}  # name -> source and frame
        self._crop_folders: dict[str, int] = {}  # folder of the crops -> class
        self._crops: dict[str, tuple[Source, int, int]] = {}  # name -> source, frame and crop
        self._videos: dict[Source, _Video] = {}  # open ones
        self._told_of_long_names = False
        self.label_files = 0

    def __enter__(self) -> PredictionFiles:
        if self._settings.csv:
            with (self._folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(CSV_HEADER)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._close_videos(check=kind is None)

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
        stem = unique_name(
            self._shortened(file_name(loaded.path).stem), self._stems, _source(loaded)
        )
        frame = f"{stem}_{loaded.frame}" if loaded.kind == "video" else stem
        worst_first = detections[::-1]  # the order of the lines in upstream's files
        if self._settings.txt and len(detections):
            # An image may have the name of a frame: clip_1.jpg beside clip.mp4.
            name = unique_name(frame, self._labels, (_source(loaded), loaded.frame))
            self._write_labels(name, loaded.original.shape[:2], worst_first)
        if self._settings.csv:
            self._write_rows(loaded, worst_first)
        if self._settings.crops:
            self._write_crops(frame, loaded, worst_first)
        if self._settings.images:
            drawn = self.annotate(loaded, detections) if annotated is None else annotated
            self._write_image(loaded, stem, drawn)

    def _caption(self, label: int, confidence: float) -> str | None:
        if self._settings.hide_labels:
            return None
        name = drawable_names(self._names)[label]
        return name if self._settings.hide_conf else f"{name} {confidence:.2f}"

    def _shortened(self, name: str) -> str:
        """Return a name with as many bytes as fit, with an appendix such as `_1000000.jpeg`."""
        try:
            longest = os.pathconf(self._folder, "PC_NAME_MAX")
        except (AttributeError, OSError, ValueError):  # on Windows
            longest = MAX_NAME_BYTES
        content = os.fsencode(name)
        if len(content) <= longest - APPENDIX_BYTES:
            return name
        if not self._told_of_long_names:
            self._told_of_long_names = True
            log.warning(
                "Long names are shortened in the output, for example %s …", name[:MAX_SHOWN]
            )
        return content[: longest - APPENDIX_BYTES].decode(errors="ignore")

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
        name = spreadsheet_text(file_name(loaded.path).name)
        rows = [
            (name, spreadsheet_text(self._names[int(label)]), f"{confidence:.2f}")
            for *_, confidence, label in detections.tolist()
        ]
        with (self._folder / "predictions.csv").open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)

    def _write_crops(self, name: str, loaded: SourceImage, detections: np.ndarray) -> None:
        for number, row in enumerate(detections, start=1):
            label = int(row[5])
            plain = re.sub(INVALID_NAME_CHARACTERS, "_", self._names[label]).strip(". ") or "_"
            folder = unique_name(self._shortened(plain), self._crop_folders, label)
            # Crop 2 of image 1 and crop 1 of image 12 would both be 12.jpg.
            wanted = f"{folder}/{name}{'' if number == 1 else number}"
            found = unique_name(wanted, self._crops, (_source(loaded), loaded.frame, number))
            target = self._folder / "crops" / f"{found}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_image(target, crop_box(loaded.original, row[:4]))

    def _write_image(self, loaded: SourceImage, stem: str, annotated: np.ndarray) -> None:
        if loaded.kind == "video":
            height, width = annotated.shape[:2]
            video = self._video(loaded, stem, (width, height))
            fits = video.size == (width, height)  # a stream that was lost may have another size
            video.writer.write(annotated if fits else cv2.resize(annotated, video.size))
            return
        suffix = file_name(loaded.path).suffix.lower()
        suffix = suffix if suffix in WRITABLE else ".jpg"
        write_image(self._folder / f"{stem}{suffix}", annotated)

    def _video(self, loaded: SourceImage, stem: str, size: tuple[int, int]) -> _Video:
        """Return the open video of a source. Those of files are closed when the next one begins."""
        source = _source(loaded)
        if source in self._videos:
            return self._videos[source]
        if not loaded.is_live:
            self._close_videos()
        path = self._folder / f"{stem}.mp4"
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(path), codec, loaded.fps, size)
        if not writer.isOpened():
            raise UserError(
                f"cannot write {path}: OpenCV cannot open an MP4 writer; "
                "use --nosave, or --nosave with --save-txt."
            )
        return self._videos.setdefault(source, _Video(writer, path, size))

    def _close_videos(self, *, check: bool = True) -> None:
        videos, self._videos = list(self._videos.values()), {}
        for video in videos:
            video.writer.release()
        for video in videos:
            # OpenCV reports no errors of writing.
            if check and not cv2.VideoCapture(str(video.path)).isOpened():
                raise UserError(
                    f"cannot write {video.path}: it is incomplete, probably because the disk is "
                    "full; free disk space, then run again."
                )


def spreadsheet_text(text: str) -> str:
    """Return a text that a spreadsheet shows and does not run as a formula.

    An apostrophe precedes the first characters that OWASP names ("CSV Injection"); characters that
    move a cursor or are invisible become escapes.
    """
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return f"'{shown}" if text.lstrip().startswith(FORMULA_STARTS) else shown


def _source(loaded: SourceImage) -> Source:
    return loaded.path, loaded.number


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
    shown = {label: " ".join(names[label].split()) for label, _ in counts}  # of one line
    found = [f"{n} {shown[label]}{'s' * (n > 1)}" for label, n in counts]
    return ", ".join(found) or "(no detections)"
