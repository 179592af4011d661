from pathlib import PurePosixPath

import pytest

from utils.errors import UserError
from utils.tools.convert.annotated import Problems, chosen_names, image_place


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("000000000139.jpg", "000000000139.jpg"),
        ("aachen/a_1.png", "aachen/a_1.png"),
        ("./a.JPG", "a.JPG"),
        # Otherwise the labels would be searched beside the inner images/.
        ("images/v1/images/p2/a.jpg", "v1/p2/a.jpg"),
        # Paths of other machines lead to no place outside of the folder.
        ("../a.jpg", "a.jpg"),
        ("a/../../b.jpg", "a/b.jpg"),
        ("/etc/a.jpg", "etc/a.jpg"),
        ("https://b.net/x/a.jpg?sign=1/2", "b.net/x/a.jpg"),
        ("https://b.net/a.jpg?of=b.png", "b.net/a.jpg"),
        ("what?.jpg", "what?.jpg"),
        ("a.jpg?b.jpg", "a.jpg?b.jpg"),  # a file may be called so
        ("C:/x/a.jpg", "x/a.jpg"),
        ("..\\b\\images\\a.jpg", "b/a.jpg"),
        ("http://host/a.jpg", "host/a.jpg"),
        # macOS writes U+202F in names of screenshots, Chinese keyboards U+3000.
        ("Screenshot 1.00\u202fPM.png", "Screenshot 1.00\u202fPM.png"),
        ("a\u3000b.jpg", "a\u3000b.jpg"),
    ],
)
def test_image_place(name: str, place: str) -> None:
    assert image_place(name, "x.json") == PurePosixPath(place)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a\n.jpg", "is not a printable string"),
        ("a\u2028.jpg", "is not a printable string"),  # ends a line of a list
        ("a\ud800.jpg", "is not a printable string"),
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


def test_all_errors_are_named_up_to_twenty() -> None:
    problems = Problems()
    problems.raise_if_any()
    for i in range(22):
        with problems.collected():
            raise UserError(f"error {i}.")
    with pytest.raises(UserError) as caught:
        problems.raise_if_any()
    lines = str(caught.value).splitlines()
    assert lines[0] == "there are 22 errors:"
    assert lines[1:] == [*(f"  error {i}." for i in range(20)), "  … and 2 more"]


def test_chosen_names() -> None:
    assert chosen_names("", ["a", "b"]) == ("a", "b")
    assert chosen_names(" b, a", ["a", "b"]) == ("b", "a")
    with pytest.raises(UserError, match=r"^--classes c,d: choose from a, b\.$"):
        chosen_names("a,c,d", ["a", "b"])
    with pytest.raises(UserError, match="--classes a,a: choose each class once"):
        chosen_names("a,a", ["a"])
