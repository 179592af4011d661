import os
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.datasets.image_files import (
    ImageError,
    darkness,
    list_images,
    probe_image,
    read_image,
)
from utils.errors import UserError

ORIENTATION = 0x0112
RED, GREEN = (200, 0, 0), (0, 200, 0)


def probe_size(path: str | Path) -> tuple[int, int]:
    return probe_image(path).size


def sample_image() -> Image.Image:
    """Return a red image, 20 px high and 30 px wide; the top left quarter is green."""
    pixels = np.full((20, 30, 3), RED, np.uint8)
    pixels[:10, :15] = GREEN
    return Image.fromarray(pixels)


def rotated_by_exif(name: str) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        image = sample_image()
        exif = image.getexif()
        exif[ORIENTATION] = 6  # rotate clockwise: the top left moves to the top right
        image.save(folder / name, exif=exif, quality=95)

    return save


def sixteen_bits(folder: Path) -> None:
    pixels = np.asarray(sample_image())[..., ::-1].astype(np.uint16) * 256
    cv2.imwrite(str(folder / "deep.png"), pixels)


def plain(name: str, mode: str = "RGB") -> Callable[[Path], None]:
    return lambda folder: sample_image().convert(mode).save(folder / name)


@pytest.mark.parametrize(
    ("name", "save", "size", "green_at"),
    [
        ("a.png", plain("a.png"), (20, 30), (2, 2)),
        ("a.jpg", plain("a.jpg"), (20, 30), (2, 2)),
        ("a.bmp", plain("a.bmp"), (20, 30), (2, 2)),
        ("a.webp", plain("a.webp"), (20, 30), (2, 2)),
        ("a.tif", plain("a.tif"), (20, 30), (2, 2)),
        ("palette.png", plain("palette.png", "P"), (20, 30), (2, 2)),
        ("alpha.png", plain("alpha.png", "RGBA"), (20, 30), (2, 2)),
        ("ink.jpg", plain("ink.jpg", "CMYK"), (20, 30), (2, 2)),
        ("deep.png", sixteen_bits, (20, 30), (2, 2)),
        ("rotated_by_exif.jpg", rotated_by_exif("rotated_by_exif.jpg"), (30, 20), (2, 17)),
        ("rotated_by_exif.png", rotated_by_exif("rotated_by_exif.png"), (30, 20), (2, 17)),
        ("rotated_by_exif.webp", rotated_by_exif("rotated_by_exif.webp"), (30, 20), (2, 17)),
        ("rotated_by_exif.tif", rotated_by_exif("rotated_by_exif.tif"), (30, 20), (2, 17)),
    ],
)
def test_read_image_returns_upright_rgb_of_the_probed_size(
    tmp_path: Path,
    name: str,
    save: Callable[[Path], None],
    size: tuple[int, int],
    green_at: tuple[int, int],
) -> None:
    save(tmp_path)
    image = read_image(tmp_path / name)
    assert image.dtype == np.uint8
    assert image.shape == (*size, 3)
    assert probe_size(tmp_path / name) == size
    np.testing.assert_allclose(
        image[green_at].astype(int), GREEN, atol=60
    )  # JPEG and CMYK are not exact
    np.testing.assert_allclose(image[-3, 3].astype(int), RED, atol=60)


def test_grey_images_have_three_equal_channels(tmp_path: Path) -> None:
    plain("grey.jpg", "L")(tmp_path)
    image = read_image(tmp_path / "grey.jpg")
    assert image.shape == (20, 30, 3)
    assert (image[..., :1] == image).all()


def truncated(name: str, keep: float) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(keep * len(content))])

    return save


@pytest.mark.parametrize(
    ("name", "save", "reason"),
    [
        (
            "empty.jpg",
            lambda folder: (folder / "empty.jpg").touch(),
            "corrupt image (unknown image format",
        ),
        (
            "text.jpg",
            lambda folder: (folder / "text.jpg").write_text("hello"),
            "corrupt image (unknown image format",
        ),
        ("half.jpg", truncated("half.jpg", 0.5), "corrupt image (image file is truncated"),
        ("tail.jpg", truncated("tail.jpg", 0.99), "corrupt image (image file is truncated"),
        ("half.png", truncated("half.png", 0.5), "corrupt image ("),
        ("half.bmp", truncated("half.bmp", 0.5), "corrupt image (image file is truncated"),
        ("half.tif", truncated("half.tif", 0.5), "corrupt image ("),
        ("absent.jpg", lambda folder: None, "it does not exist"),
        (
            "tiny.png",
            lambda folder: Image.new("RGB", (9, 40)).save(folder / "tiny.png"),
            "image is 9x40 px; sides must be at least 10 px",
        ),
    ],
)
def test_probe_size_rejects_unusable_images(
    tmp_path: Path, name: str, save: Callable[[Path], object], reason: str
) -> None:
    save(tmp_path)
    with pytest.raises(ImageError) as caught:
        probe_size(tmp_path / name)
    assert str(caught.value).startswith(reason)


def test_missing_image_is_not_called_corrupt(tmp_path: Path) -> None:
    for read in (read_image, probe_size):
        with pytest.raises(ImageError, match=r"^it does not exist$"):
            read(tmp_path / "gone.jpg")


def test_jpeg_with_trailing_bytes_is_complete(tmp_path: Path) -> None:
    plain("a.jpg")(tmp_path)
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(b"camera maker's notes")
    assert probe_size(tmp_path / "a.jpg") == (20, 30)


def test_folders_are_searched_recursively_and_sorted(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/1.png", "a/deep/3.jpeg", "notes.txt", "b/labels.cache"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = ["a/deep/3.jpeg", "b/1.png", "b/2.JPG"]
    assert list_images([tmp_path]) == [str(tmp_path / name) for name in expected]
    assert list_images([tmp_path / "b", tmp_path / "a"]) == [
        str(tmp_path / name) for name in ("b/1.png", "b/2.JPG", "a/deep/3.jpeg")
    ]


@pytest.mark.parametrize(
    ("list_file", "entries"),
    [
        ("train.txt", ["./images/2.jpg", "images/1.jpg"]),  # beside the images' folder
        ("splits/train.txt", ["./images/2.jpg", "images/1.jpg"]),  # relative to the parent folder
        ("splits/train.txt", ["../images/2.jpg", "../images/1.jpg", ""]),
    ],
)
def test_list_files_keep_their_order(tmp_path: Path, list_file: str, entries: list[str]) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "splits").mkdir()
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "images" / name).touch()
    (tmp_path / list_file).write_text("\n".join(entries))
    found = [Path(path).resolve() for path in list_images([tmp_path / list_file])]
    assert found == [tmp_path / "images" / "2.jpg", tmp_path / "images" / "1.jpg"]


def test_list_files_may_contain_absolute_paths(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").touch()
    (tmp_path / "list.txt").write_text(f"{tmp_path}/1.jpg\n/gone/2.jpg\n")
    assert list_images([tmp_path / "list.txt"]) == [f"{tmp_path}/1.jpg", "/gone/2.jpg"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"1.jpg\n\xff.jpg", r"damaged \('utf-8' codec"),
        (b"1.jpg\na\0b.jpg", r"not a list of images \(it has the line"),
        (b"x" * 5000, r"not a list of images \(it has the line"),
    ],
)
def test_invalid_list_files(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"/list\.txt is {reason}"):
        list_images([tmp_path / "list.txt"])


def written_list(folder: Path, entries: Sequence[str], name: str = "list.txt") -> Path:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(entries))
    return folder / name


def test_folder_of_a_list_is_that_of_most_entries(tmp_path: Path) -> None:
    """The first ten entries are gone, and one is in another folder too."""
    (tmp_path / "lists" / "images").mkdir(parents=True)
    (tmp_path / "lists" / "images" / "19.jpg").touch()
    (tmp_path / "images").mkdir()
    for number in range(10, 20):
        (tmp_path / "images" / f"{number}.jpg").touch()
    entries = [f"images/{number}.jpg" for number in range(20)]
    found = list_images([written_list(tmp_path, entries, "lists/TRAIN.TXT")])
    assert found == [str(tmp_path / entry) for entry in entries]


def test_comments_in_lists(tmp_path: Path) -> None:
    for name in ("#1.jpg", "a.jpg"):
        (tmp_path / name).touch()
    file = written_list(
        tmp_path, ["# 2 images, v1.2", "#", "#1.jpg", "#second:", "a.jpg", "# b.jpg"]
    )
    assert list_images([file]) == [str(tmp_path / "#1.jpg"), str(tmp_path / "a.jpg")]


@pytest.mark.parametrize("prefix", [".\\", "", "D:\\sets\\mine\\", "/content/mine/", "C:/mine/"])
def test_lists_of_another_system_or_machine(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "images" / "train").mkdir(parents=True)
    separator = "/" if "/" in prefix else "\\"
    names = ["a.jpg", "b b.jpg"]
    for name in names:
        (tmp_path / "images" / "train" / name).touch()
    entries = [prefix + separator.join(["images", "train", name]) for name in names]
    found = list_images([written_list(tmp_path, entries, "lists/train.txt")])
    assert found == [str(tmp_path / "images" / "train" / name) for name in names]


def test_listed_images_that_are_not_there_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.jpg").touch()
    file = written_list(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    assert len(list_images([file])) == 3
    number = f"2 of 3 images listed in {file} are not there"
    assert [r.message for r in caplog.records] == [f"{number}, for example {tmp_path}/b.jpg."]
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(UserError) as caught:
        list_images([file])
    assert str(caught.value).startswith(
        f"3 of 3 images listed in {file} are not there (the first is 'a.jpg'; "
        f"looked in {tmp_path}, {tmp_path.parent}, "
    )


def test_files_that_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """AppleDouble files of macOS are no images; photographs of other formats are reported."""
    for name in ("a.jpg", "._a.jpg", "b.heic", "c.JFIF", "d.jfif", "notes.txt", "._e.heic"):
        (tmp_path / name).touch()
    assert list_images([tmp_path]) == [str(tmp_path / "a.jpg")]
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}: files of formats that are not read are left out: 3 (.heic, .jfif); convert "
        "them to JPEG."
    ]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "grey.png", "grey.tif"])
def test_deep_images(tmp_path: Path, name: str) -> None:
    """12 bits in 16, so that the upper 8 bits are below 16; and all 16 bits."""
    shape = (20, 30) if name.startswith("grey") else (20, 30, 3)
    for largest, is_dark in ((4095, True), (65535, False)):
        cv2.imwrite(str(tmp_path / name), np.full(shape, largest, np.uint16))
        header = probe_image(tmp_path / name)
        assert header == ((20, 30), True)
        assert bool(darkness(read_image(tmp_path / name))) == is_dark


def test_eight_bit_images_are_not_deep(tmp_path: Path) -> None:
    for name, mode in (("a.png", "RGB"), ("a.tif", "RGB"), ("p.png", "P"), ("l.jpg", "L")):
        plain(name, mode)(tmp_path)
        assert probe_image(tmp_path / name) == ((20, 30), False)


def test_too_long_list_entries_fail_in_probe_size(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "list.txt").write_text("x" * 300 + "\na.jpg")
    assert list_images([tmp_path / "list.txt"])[0] == f"{tmp_path}/{'x' * 300}"
    with pytest.raises(ImageError, match="File name too long"):
        probe_size(tmp_path / ("x" * 300))


def test_linked_folders_are_searched_once(tmp_path: Path) -> None:
    for name in ("real/1.jpg", "elsewhere/2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    real = tmp_path / "real"
    (real / "a").symlink_to(tmp_path / "elsewhere")
    (real / "b").symlink_to(tmp_path / "elsewhere")
    (real / "again").symlink_to(real)
    (tmp_path / "elsewhere" / "back").symlink_to(real)
    assert list_images([real]) == [str(real / "1.jpg"), str(real / "a" / "2.jpg")]


def test_hidden_files_without_suffix_are_not_images(tmp_path: Path) -> None:
    for name in (".jpg", "jpg", "a.jpg"):
        (tmp_path / name).touch()
    assert list_images([tmp_path]) == [str(tmp_path / "a.jpg")]


def test_non_utf8_names_are_rejected_before_opencv(tmp_path: Path) -> None:
    path = f"{tmp_path}/{os.fsdecode(b'odd-' + bytes([255]))}.png"
    sample_image().save(path)
    for read in (probe_size, read_image):
        with pytest.raises(ImageError, match="its name is not UTF-8; rename it"):
            read(path)


def test_header_with_too_many_pixels_is_rejected(tmp_path: Path) -> None:
    plain("a.png")(tmp_path)
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[:16] + (40_000).to_bytes(4, "big") * 2 + content[24:])
    for read in (probe_size, read_image):
        with pytest.raises(ImageError):
            read(tmp_path / "a.png")


def test_sources_without_images_raise(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").touch()
    with pytest.raises(UserError, match=r"/absent does not exist"):
        list_images([tmp_path / "absent"])
    with pytest.raises(UserError, match=r"/empty has no images; add some \(\.avif, "):
        list_images([tmp_path / "empty"])
    with pytest.raises(UserError, match=r"is neither a folder nor a \.txt file; give a folder"):
        list_images([tmp_path / "table.csv"])
