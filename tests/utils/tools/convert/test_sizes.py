from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from utils.datasets.image_files import ORIENTATION_TAG, read_image
from utils.errors import UserError
from utils.tools.convert.annotated import (
    AnnotatedImage,
    Annotation,
    Conversion,
    Corners,
    Split,
)
from utils.tools.convert.sizes import scale_fractions, with_real_sizes

STORED = (60, 40)  # width and height of the stored image, px
BOX = Corners(5, 10, 25, 18)


def save(file: Path, orientation: int = 1, stored: tuple[int, int] = STORED) -> Path:
    """Write an image that is white in BOX and black elsewhere, as it is stored."""
    pixels = np.zeros((stored[1], stored[0], 3), np.uint8)
    pixels[int(BOX.top) : int(BOX.bottom), int(BOX.left) : int(BOX.right)] = 255
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, exif=exif, quality=100)
    return file


def converted(file: Path, given: tuple[int, int], box: Corners = BOX) -> AnnotatedImage:
    annotations = (Annotation("cat", box),)
    image = AnnotatedImage(PurePosixPath(file.name), file, *given, annotations)
    asked = Conversion("voc", {}, ("cat",), ("cat",), (Split("train", "train", [image]),))
    return with_real_sizes(asked).splits[0].images[0]


def white(file: Path) -> Corners:
    """Return the box of the white pixels of the upright image."""
    rows, columns = np.nonzero(read_image(file)[..., 0] > 127)
    return Corners(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_boxes_of_the_stored_image_are_turned(
    tmp_path: Path, orientation: int, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The size of the annotations is that of the stored image: 60x40 for an upright 40x60."""
    file = save(tmp_path / f"a{suffix}", orientation)
    image = converted(file, STORED)
    height, width = read_image(file).shape[:2]
    assert (image.width, image.height) == (width, height)
    if orientation in (2, 3, 4) and (width, height) == STORED and suffix == ".jpg":
        assert "1 images have an EXIF orientation, and their size does not show" in caplog.text
    elif (width, height) != STORED:
        assert image.annotations[0].box == white(file)
        assert "1 images have the size of the stored image" in caplog.text
    else:
        assert image.annotations[0].box == BOX


def test_sizes_of_the_upright_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The annotation tool has applied the orientation."""
    file = save(tmp_path / "a.jpg", 6)
    box = white(file)
    assert converted(file, STORED[::-1], box).annotations[0].box == box
    assert caplog.messages == []
    assert converted(file, (0, 0), box)[2:4] == STORED[::-1]
    assert "1 images have an EXIF orientation, and their size does not show" in caplog.text


def test_resized_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = save(tmp_path / "a.png")
    image = converted(file, (120, 80), Corners(10, 20, 50, 36))
    assert (image.width, image.height, image.annotations[0].box) == (60, 40, BOX)
    # 1000x666 is 60x40 within the rounding of a side.
    assert converted(file, (1000, 666)).width == 60
    turned = save(tmp_path / "b.jpg", 6)
    image = converted(turned, (120, 80), Corners(10, 20, 50, 36))
    assert image.annotations[0].box == white(turned)
    note = "1 images have another size in the annotations; their boxes are scaled to the image"
    assert caplog.messages.count(f"{note}: {file}.") == 2


def test_exchanged_sides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A script that writes the height as the width: the boxes fit the image."""
    file = save(tmp_path / "a.png")
    image = converted(file, (40, 60))
    assert (image.width, image.height, image.annotations[0].box) == (60, 40, BOX)
    assert "have width and height exchanged" in caplog.text
    # The boxes do not fit: the image was turned after the annotation, in an unknown direction.
    with pytest.raises(
        UserError, match=r"a\.png has 60x40 px, but 40x60 px in the annotations; use"
    ):
        converted(file, (40, 60), Corners(5, 10, 25, 58))


def test_other_sizes_are_refused_and_named(tmp_path: Path) -> None:
    files = [save(tmp_path / f"{i:02d}.png") for i in range(22)]
    boxes = (Annotation("cat", BOX),)
    images = [AnnotatedImage(PurePosixPath(f.name), f, 100, 40, boxes) for f in files]
    asked = Conversion("voc", {}, ("cat",), ("cat",), (Split("train", "train", images),))
    with pytest.raises(UserError) as caught:
        with_real_sizes(asked)
    lines = str(caught.value).splitlines()
    assert lines[0] == "there are 22 errors:"
    assert "00.png has 60x40 px, but 100x40 px in the annotations" in lines[1]
    assert lines[-1] == "  … and 2 more"


@pytest.mark.parametrize("given", [(100, 40), (1, 1)], ids=["pixels", "fractions"])
def test_unreadable_images_are_named(
    tmp_path: Path, given: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    """In all formats; a split of which nothing else exists is refused."""
    box = (Annotation("cat", Corners(0, 0, 1, 1)),)
    good = AnnotatedImage(PurePosixPath("a.png"), save(tmp_path / "a.png"), *given, ())
    bad = AnnotatedImage(PurePosixPath("b.png"), tmp_path / "b.png", *given, box)
    gone = AnnotatedImage(PurePosixPath("c.png"), tmp_path / "c.png", *given, box)
    bad.file.write_bytes(b"")

    def read(*images: AnnotatedImage) -> None:
        splits = (Split("train", "train", list(images)),)
        with_real_sizes(Conversion("voc", {}, ("cat",), ("cat",), splits))

    read(good, gone)
    read(gone)
    assert not caplog.records
    read(good, bad, gone)
    assert caplog.messages == [
        f"1 images cannot be read as images; training skips them: {bad.file}."
    ]
    with pytest.raises(UserError, match=r"no image of train can be read: .*b\.png"):
        read(bad, gone)


def test_images_without_boxes_and_unreadable_images(tmp_path: Path) -> None:
    file = save(tmp_path / "a.png")
    background = AnnotatedImage(PurePosixPath("a.png"), file, 100, 40, ())
    damaged = background._replace(file=tmp_path / "b.png", annotations=(Annotation("cat", BOX),))
    (tmp_path / "b.png").write_bytes(b"no image")
    splits = (Split("train", "train", [background, damaged]),)
    found = with_real_sizes(Conversion("voc", {}, ("cat",), ("cat",), splits)).splits[0].images
    assert [(image.width, image.height) for image in found] == [(60, 40), (100, 40)]
    with pytest.raises(
        UserError, match=r"b\.png has no size in the annotations and cannot be read"
    ):
        converted(tmp_path / "b.png", (0, 0))


def test_images_whose_boxes_look_like_fractions_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """A split has fractions in all files or in none, so these are not scaled."""
    images = [
        AnnotatedImage(PurePosixPath(name), Path(name), 60, 40, (Annotation("cat", box),))
        for name, box in (("a.png", BOX), ("b.png", Corners(0.1, 0.2, 0.3, 0.4)))
    ]
    (split,) = scale_fractions([Split("train", "train", images)])
    assert split.images == images
    assert "train: in 1 images all boxes are within the first pixel" in caplog.text
    assert "b.png" in caplog.text
    assert "a.png" not in caplog.text


def test_turned_fractions(tmp_path: Path) -> None:
    """Fractions of the stored image are turned with it, if the size is that of the stored image."""
    file = save(tmp_path / "a.jpg", 6)
    box = Corners(BOX.left / 60, BOX.top / 40, BOX.right / 60, BOX.bottom / 40)
    image = AnnotatedImage(PurePosixPath("a.jpg"), file, *STORED, (Annotation("cat", box),))
    splits = tuple(scale_fractions([Split("train", "train", [image])]))
    found = with_real_sizes(Conversion("voc", {}, ("cat",), ("cat",), splits)).splits[0].images[0]
    assert found.annotations[0].box == pytest.approx(white(file))
