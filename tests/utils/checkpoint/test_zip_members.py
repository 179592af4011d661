"""Zip files with false sizes, duplicate members and other damage."""

import struct
import zipfile
from pathlib import Path

import pytest

from utils.checkpoint.pickle_records import MAX_INT_KEY, MAX_OPCODES, imported_names, read_records
from utils.checkpoint.zip_members import ChecksumResult, read_members, verify_checksums
from utils.errors import UserError

MEMBERS = {"archive/data.pkl": b"K\1.", "archive/data/0": b"\0" * 64, "archive/data/1": b"\1" * 64}
# offsets of fields in an entry of the central directory
COMPRESSED_SIZE, SIZE, NAME, HEADER_OFFSET = 20, 24, 46, 42


def write(path: Path, members: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members or MEMBERS).items():
            archive.writestr(name, content)
    return path


def entry_of(content: bytes, name: str) -> int:
    """Return the offset of a member's entry in the central directory."""
    return content.rindex(name.encode()) - NAME


def tamper(path: Path, name: str, field: int, value: int) -> Path:
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, entry_of(bytes(content), name) + field, value)
    path.write_bytes(content)
    return path


def test_members_are_read_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt")
    assert read_members(path) == {"data.pkl": b"K\1.", "data/0": b"\0" * 64, "data/1": b"\1" * 64}
    assert read_members(path, only=("data.pkl",)) == {"data.pkl": b"K\1."}
    assert verify_checksums(path) == ChecksumResult(3, ())


def test_damaged_members_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt")
    path.write_bytes(path.read_bytes().replace(b"\1" * 64, b"\1" * 63 + b"\0"))
    assert verify_checksums(path) == ChecksumResult(3, ("data/1",))
    with pytest.raises(
        UserError, match=r"the checksum of data/1 is wrong\); use another checkpoint"
    ):
        read_members(path)
    assert read_members(path, only=("data.pkl",)) == {"data.pkl": b"K\1."}


def test_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"." * 10_000_000)
    for read in (read_members, verify_checksums):
        with pytest.raises(UserError, match="it has compressed members"):
            read(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_member_names_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", b"\2" * 64)
    with pytest.raises(UserError, match="two members with the same name"):
        read_members(path)
    path = write(tmp_path / "b.pt", MEMBERS | {"other/data/0": b"\2" * 64})
    with pytest.raises(UserError, match="two members with the same name"):
        read_members(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (COMPRESSED_SIZE, 2**31, "compressed members"),  # the size that a reader would allocate
        (SIZE, 2**32 - 2, "compressed members"),
        (
            SIZE,
            2**32 - 1,
            "is not a checkpoint|is damaged",
        ),  # announces 64-bit sizes, which are missing
        (HEADER_OFFSET, 0, "File name in directory .* and header .* differ"),
        (HEADER_OFFSET, 2**31, "is damaged"),
    ],
)
def test_false_sizes_and_offsets_are_refused(
    tmp_path: Path, field: int, value: int, message: str
) -> None:
    path = tamper(write(tmp_path / "a.pt"), "archive/data/1", field, value)
    with pytest.raises(UserError, match=message):
        read_members(path)


def test_two_false_sizes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt")
    for field in (SIZE, COMPRESSED_SIZE):
        tamper(path, "archive/data/1", field, 2**31)
    with pytest.raises(UserError, match="it claims more bytes than it has"):
        read_members(path)


def test_false_64_bit_sizes_are_refused(tmp_path: Path) -> None:
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


def test_control_characters_in_a_name_are_escaped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", MEMBERS | {"archive/\x1b[2J\n": b"\3" * 64})
    path.write_bytes(path.read_bytes().replace(b"\3" * 64, b"\4" * 64))
    assert verify_checksums(path).wrong == (r"\x1b[2J\n",)


def parsed(pickled: bytes) -> object:
    return read_records(pickled, lambda _: True, Path("a.pt"))


def test_number_of_opcodes_is_limited() -> None:
    with pytest.raises(UserError, match="its pickle has no end"):
        parsed(b"N" * MAX_OPCODES + b".")
    assert parsed(b"N" * (MAX_OPCODES - 1) + b".") is None


def test_size_of_integer_keys_is_limited() -> None:
    def pickled(key: int) -> bytes:
        return b"}\x8a\x09" + key.to_bytes(9, "little", signed=True) + b"Ns."

    assert parsed(pickled(MAX_INT_KEY - 1)) == {MAX_INT_KEY - 1: None}
    for key in (MAX_INT_KEY, -MAX_INT_KEY):
        with pytest.raises(UserError, match="a dictionary key is too large an integer"):
            parsed(pickled(key))


def test_imported_names_exclude_names_in_strings() -> None:
    text = b"cmodels.yolo\nModel\n"
    pickled = b"\x80\2X" + struct.pack("<I", len(text)) + text + b"ctorch\nSize\n0."
    assert list(imported_names(pickled)) == ["torch.Size"]
    assert list(imported_names(b"ctorch\nSize\n\xff" + text)) == ["torch.Size"]  # up to the damage
