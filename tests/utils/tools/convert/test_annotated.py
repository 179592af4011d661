from pathlib import PurePosixPath

import pytest

from utils.errors import UserError
from utils.tools.convert.annotated import image_place


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("000000000139.jpg", "000000000139.jpg"),
        ("aachen/a_1.png", "aachen/a_1.png"),
        ("./a.JPG", "a.JPG"),
        # Otherwise the labels would be searched beside the inner images/.
        ("images/v1/images/p2/a.jpg", "p2/a.jpg"),
    ],
)
def test_image_place(name: str, place: str) -> None:
    assert image_place(name, "x.json") == PurePosixPath(place)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../a.jpg", "is outside of its folder"),
        ("a/../../b.jpg", "is outside of its folder"),
        ("/etc/a.jpg", "is outside of its folder"),
        ("C:/a.jpg", "is outside of its folder"),
        ("..\\a.jpg", "is outside of its folder"),
        ("a\n.jpg", "is not a printable string"),
        (7, "image name 7 is not a printable string"),
        ("passwd", "'passwd' has an unknown suffix; choose one of .avif"),
        ("", "'' has an unknown suffix; choose one of .avif"),
        ("a.txt", "'a.txt' has an unknown suffix; choose one of .avif"),
    ],
)
def test_invalid_image_names(name: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        image_place(name, "x.json")
    assert str(caught.value).startswith("x.json: ")
