from pathlib import Path

import pytest

from utils.errors import UserError
from utils.files.yaml_file import read_yaml, write_yaml


def content(tmp_path: Path, text: str | bytes) -> object:
    file = tmp_path / "a.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_yaml(file)


def test_plain_values(tmp_path: Path) -> None:
    text = "\ufefftext: é\nnumbers: [1, 2.5]\ninner: {yes: no}\nagain: &a [x]\nsame: *a\nnone:"
    assert content(tmp_path, text) == {
        "text": "é",
        "numbers": [1, 2.5],
        "inner": {True: False},
        "again": ["x"],
        "same": ["x"],
        "none": None,
    }
    assert content(tmp_path, "") is None


def test_write_yaml_keeps_the_order(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    write_yaml({"b": 0.5, "a": "é", "c": None}, file)
    assert file.read_text(encoding="utf-8") == "b: 0.5\na: é\nc: null\n"
    assert read_yaml(file) == {"b": 0.5, "a": "é", "c": None}


def nested(references: str) -> str:
    """Return YAML of ten levels; each is `references` formatted with the previous level."""
    levels = [references.format(level=level, below=level - 1) for level in range(1, 11)]
    return "\n".join(["a0: &a0 {k: v}", *levels])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (nested("a{level}: &a{level} [*a{below}, *a{below}]"), "more than 10 aliases"),
        (nested("a{level}: &a{level} {{<<: [*a{below}, *a{below}]}}"), "more than 10 aliases"),
        ("[" * 5000, "nested more than 20 levels deep"),
        ("{a: " * 5000, "nested more than 20 levels deep"),
        ("a" * (1 << 21), "is larger than 1 MiB"),
        ("a: " + "9" * 5000, "has a number of 5000 digits"),
        ("a: 0x" + "f" * 5000, "has a number of 5002 digits"),
        ('"a\\0b"', r"has an invalid character in 'a\x00b'"),
        ('"\\ud800"', r"has an invalid character in '\ud800'"),
        (b"\xff\xfea", "is damaged ('utf-8' codec"),
        ("a: [", "is damaged (while parsing"),
        ("a: 2020-13-45", "is damaged (month must be in 1..12"),
        ('a: !!int ""', "; correct the YAML."),
        ("a: !!bool maybe", "; correct the YAML."),
        ("a: !!timestamp soon", "; correct the YAML."),
        ("!!python/object/apply:os.abort []", "is damaged (could not determine"),
        ("a\n---\nb", "is damaged (expected a single document"),
    ],
)
def test_invalid_yaml_is_rejected(tmp_path: Path, text: str | bytes, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        content(tmp_path, text)
    sentence = str(caught.value)
    assert sentence.startswith(f"{tmp_path}/a.yaml ")
    assert reason in sentence
    assert "\n" not in sentence
    assert len(sentence) < len(str(tmp_path)) + 400


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory; give a YAML file"):
        read_yaml(tmp_path)
