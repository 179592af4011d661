"""Zip files that say more than they are."""

import struct
import zipfile
from pathlib import Path

import pytest

from utils.checkpoint.pickle_records import MAX_KEY, MAX_STEPS, imported_names, read_records
from utils.checkpoint.zip_members import Sums, check_sums, read_members
from utils.errors import UserError

MEMBERS = {"archive/data.pkl": b"K\1.", "archive/data/0": b"\0" * 64, "archive/data/1": b"\1" * 64}
# of the central directory's entries: where in them the fields are that are tampered with here
COMPRESSED_SIZE, SIZE, NAME, HEADER_OFFSET = 20, 24, 46, 42


def write(path: Path, members: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members or MEMBERS).items():
            archive.writestr(name, content)
    return path


def entry_of(content: bytes, name: str) -> int:
    """Where the central directory's entry of a member begins."""
    return content.rindex(name.encode()) - NAME


def tamper(path: Path, name: str, field: int, value: int) -> Path:
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, entry_of(bytes(content), name) + field, value)
    path.write_bytes(content)
    return path


def test_members_by_their_names_in_the_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt")
    assert read_members(path) == {"data.pkl": b"K\1.", "data/0": b"\0" * 64, "data/1": b"\1" * 64}
    assert read_members(path, only=("data.pkl",)) == {"data.pkl": b"K\1."}
    assert check_sums(path) == Sums(3, ())


def test_damaged_members_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt")
    path.write_bytes(path.read_bytes().replace(b"\1" * 64, b"\1" * 63 + b"\0"))
    assert check_sums(path) == Sums(3, ("data/1",))
    with pytest.raises(UserError, match=r"the checksum of data/1 is wrong; use another checkpoint"):
        read_members(path)
    assert read_members(path, only=("data.pkl",)) == {"data.pkl": b"K\1."}


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"." * 10_000_000)
    for read in (read_members, check_sums):
        with pytest.raises(UserError, match="it has compressed members"):
            read(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", b"\2" * 64)
    with pytest.raises(UserError, match="two members of one name"):
        read_members(path)
    path = write(tmp_path / "b.pt", MEMBERS | {"other/data/0": b"\2" * 64})
    with pytest.raises(UserError, match="two members of one name"):
        read_members(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (COMPRESSED_SIZE, 2**31, "compressed members"),  # so much would be allocated to read it
        (SIZE, 2**32 - 2, "compressed members"),
        (SIZE, 2**32 - 1, "is not a checkpoint|is damaged"),  # 64-bit sizes follow, and do not
        (HEADER_OFFSET, 0, "File name in directory .* and header .* differ"),
        (HEADER_OFFSET, 2**31, "is damaged"),
    ],
)
def test_sizes_and_places_that_lie(tmp_path: Path, field: int, value: int, message: str) -> None:
    path = tamper(write(tmp_path / "a.pt"), "archive/data/1", field, value)
    with pytest.raises(UserError, match=message):
        read_members(path)


def test_both_sizes_lie(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt")
    for field in (SIZE, COMPRESSED_SIZE):
        tamper(path, "archive/data/1", field, 2**31)
    with pytest.raises(UserError, match="it claims more bytes than it has"):
        read_members(path)


def test_sizes_of_64_bits_that_lie(tmp_path: Path) -> None:
    claim = struct.pack("<HHQQ", 1, 16, 2**62, 2**62)
    entry = zipfile.ZipInfo("archive/data.pkl")
    entry.extra = claim
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr(entry, b"K\1.")
    content = bytearray((tmp_path / "a.pt").read_bytes())
    place = entry_of(bytes(content), "archive/data.pkl")
    for field in (SIZE, COMPRESSED_SIZE):
        struct.pack_into("<I", content, place + field, 2**32 - 1)
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(UserError, match="it claims more bytes than it has"):
        read_members(tmp_path / "a.pt")


def test_a_name_of_control_characters_is_shown_escaped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", MEMBERS | {"archive/\x1b[2J\n": b"\3" * 64})
    path.write_bytes(path.read_bytes().replace(b"\3" * 64, b"\4" * 64))
    assert check_sums(path).wrong == (r"\x1b[2J\n",)


def test_a_program_has_a_bounded_number_of_steps() -> None:
    with pytest.raises(UserError, match="its pickle has no end"):
        read_records(b"N" * MAX_STEPS + b".", lambda _: None)
    assert read_records(b"N" * (MAX_STEPS - 1) + b".", lambda _: None) is None


def test_a_key_is_no_larger_than_any_that_a_state_has() -> None:
    def program(key: int) -> bytes:
        return b"}\x8a\x09" + key.to_bytes(9, "little", signed=True) + b"Ns."

    assert read_records(program(MAX_KEY - 1), lambda _: None) == {MAX_KEY - 1: None}
    for key in (MAX_KEY, -MAX_KEY):
        with pytest.raises(UserError, match="a number as large as this as a key"):
            read_records(program(key), lambda _: None)


def test_names_are_those_that_are_imported_not_those_in_texts() -> None:
    text = b"cmodels.yolo\nModel\n"
    pickled = b"\x80\2X" + struct.pack("<I", len(text)) + text + b"ctorch\nSize\n0."
    assert list(imported_names(pickled)) == ["torch.Size"]
    assert list(imported_names(b"ctorch\nSize\n\xff" + text)) == ["torch.Size"]  # to the damage
