"""Generate the street-scenes data set. It is painted, not downloaded, and identical everywhere."""

import logging
import tempfile
from pathlib import Path

import cv2
from tqdm import tqdm

from data.street_scenes.camera import HEIGHT, WIDTH
from data.street_scenes.scene import Painting, paint_scene
from utils.errors import UserError

log = logging.getLogger("yolo")

SPLITS = {"train": 160, "val": 48}  # images
SAMPLES = 2
SEED = 20  # seed of the whole data set
COMPRESSION = 6  # zlib level; higher ones save little and take ten times as long


def make_streets(root: Path) -> None:
    """Generate the data set at `root`: images/{train,val}/*.png and labels/{train,val}/*.txt.

    It is written beside `root` and moved when it is complete. So a killed process leaves nothing
    that looks like a data set, and of several processes the first to finish wins. An existing
    complete data set is kept.

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


def make_samples(folder: Path) -> None:
    """Draw two images of the validation split, at twice their size, into a folder.

    Existing files are kept.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(SAMPLES):
        file = folder / f"street_{number}.jpg"
        if not file.exists():
            image = paint_scene(SEED, 1, number).image
            large = cv2.resize(image[..., ::-1], None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
            jpeg = cv2.imencode(file.suffix, large)[1].tobytes()
            part = file.with_suffix(".part")
            part.write_bytes(jpeg)
            part.replace(file)


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
                painting, name = paint_scene(SEED, number, i), f"street_{i:03d}"
                bgr = cv2.cvtColor(painting.image, cv2.COLOR_RGB2BGR)
                # PNG, because JPEG decoders give slightly different pixels.
                png = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, COMPRESSION])[1]
                (images / f"{name}.png").write_bytes(png.tobytes())
                (labels / f"{name}.txt").write_text(label_text(painting))
                progress.update()


def label_text(painting: Painting) -> str:
    """Return the text of a label file: a row `class cx cy w h` per box, normalised."""
    lines = []
    for label, left, top, right, bottom in painting.labels:
        x, y = (left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT
        width, height = (right - left) / WIDTH, (bottom - top) / HEIGHT
        lines.append(f"{label} {x:.6f} {y:.6f} {width:.6f} {height:.6f}\n")
    return "".join(lines)
