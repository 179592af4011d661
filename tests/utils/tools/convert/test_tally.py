from pathlib import Path, PurePosixPath

from utils.tools.convert.annotated import AnnotatedImage, Annotation, Corners
from utils.tools.convert.tally import Tally


def test_rows_and_counts() -> None:
    annotations = (
        Annotation("cat", Corners(10, 20, 30, 60), 1),
        Annotation("dog", Corners(-10, 90, 20, 120), 0),  # extends beyond two edges
        Annotation("cat", Corners(10, 20, 30, 60), 1),  # duplicate
        Annotation("dog", Corners(10, 20, 30, 60), 0),  # no duplicate: another class
        Annotation("cat", Corners(50, 50, 50, 60), 1),
        Annotation("cat", Corners(200, 0, 210, 10), 1),
        Annotation("cow", Corners(0, 0, 200, 50), None, "of class cow"),
        Annotation("cow", Corners(0, 0, 5, 0), None, "of class cow"),
    )
    tally = Tally("val")
    image = AnnotatedImage(PurePosixPath("a/1.jpg"), Path("1.jpg"), 200, 100, annotations)
    rows = tally.rows_of(image)
    assert rows.labels == [
        "1 0.100000 0.400000 0.100000 0.400000",
        "0 0.050000 0.950000 0.100000 0.100000",
        "0 0.100000 0.400000 0.100000 0.400000",
    ]
    assert rows.ignored == ["0.500000 0.250000 1.000000 0.500000"]
    assert tally.rows == {"dog": 2, "cat": 4, "cow": 2}
    assert tally.boxes == {"dog": 2, "cat": 1}
    assert tally.ignored == {"of class cow": 1}
    assert tally.dropped == {"repeated": 1, "without area": 2, "outside the image": 1}
    assert tally.dropped_rows[1] == "a/1.jpg: cat (50, 50, 50, 60) is without area"
    assert (tally.images, tally.background, tally.cut) == (1, 0, 1)
    counted = (tally.boxes, tally.ignored, tally.dropped)
    assert tally.rows.total() == sum(count.total() for count in counted)


def test_image_without_boxes_is_background() -> None:
    tally = Tally("val")
    ignored = Annotation("dog", Corners(0, 0, 5, 5), None, "difficult")
    image = AnnotatedImage(PurePosixPath("1.jpg"), Path("1.jpg"), 10, 10, (ignored,))
    assert tally.rows_of(image) == ([], ["0.250000 0.250000 0.500000 0.500000"])
    assert (tally.images, tally.background) == (1, 1)
