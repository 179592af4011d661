"""Generate the street-scenes data set. It is painted, not downloaded, and identical everywhere."""

import logging
import tempfile
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from data.street_scenes.scene import HEIGHT, WIDTH, Painting, paint_scene
from utils.errors import UserError

log = logging.getLogger("yolo")

SPLITS = {"train": 160, "val": 48}  # images
SEED = 20  # seed of the whole data set
# zlib level of the PNG files; higher levels save little and take ten times as long.
COMPRESSION = 6


def make_streets(root: Path) -> None:
    """Generate the data set at `root`: images/{train,val}/*.png and labels/{train,val}/*.txt.

    Everything is written to a temporary folder beside `root` and moved when it is complete. So a
    killed process leaves nothing that looks like a data set, and of several processes the first to
    finish wins. An existing complete data set is kept.

    Raises:
        UserError: `root` contains something else or cannot be written.
    """
    if _is_complete(root):
        return
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(
            f"{root} is not a complete streets data set; remove it to generate it again."
        )
    log.info("Generating the streets data set in %s", root)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as folder:
            made = Path(folder) / root.name
            _write(made)
            made.rename(root)
    except OSError as error:
        if not _is_complete(root):  # otherwise another process was faster
            raise UserError(f"cannot write {root}: {error}; choose another folder.") from error


def _is_complete(root: Path) -> bool:
    return all(
        len(list((root / kind / split).glob(f"*{suffix}"))) == count
        for split, count in SPLITS.items()
        for kind, suffix in (("images", ".png"), ("labels", ".txt"))
    )


def _write(root: Path) -> None:
    with tqdm(total=sum(SPLITS.values()), desc="streets", unit="img", disable=None) as progress:
        for number, (split, count) in enumerate(SPLITS.items()):
            images, labels = root / "images" / split, root / "labels" / split
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for i in range(count):
                painting = paint_scene(SEED, number, i)
                name = f"street_{i:03d}"
                _write_png(images / f"{name}.png", painting.image)
                (labels / f"{name}.txt").write_text(label_text(painting))
                progress.update()


def label_text(painting: Painting) -> str:
    """Return the text of a label file: a row `class cx cy w h` per box, normalised."""
    lines = []
    for box in painting.labels:
        centre = ((box.left + box.right) / 2 / WIDTH, (box.top + box.bottom) / 2 / HEIGHT)
        size = ((box.right - box.left) / WIDTH, (box.bottom - box.top) / HEIGHT)
        lines.append(" ".join((str(box.label), *(f"{value:.6f}" for value in (*centre, *size)))))
    return "".join(f"{line}\n" for line in lines)


def _write_png(path: Path, image: np.ndarray) -> None:
    """Write an RGB image as PNG, because JPEG decoders give slightly different pixels."""
    bgr = np.ascontiguousarray(image[..., ::-1])
    encoded = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, COMPRESSION])[1]
    path.write_bytes(encoded.tobytes())
