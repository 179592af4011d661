"""Writes pickles that Python's pickler cannot write: calls of names that may not exist."""

import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Name:
    """A class or function, by its dotted name."""

    dotted: str


@dataclass(frozen=True)
class Call:
    """`name(*arguments)`, then `__setstate__(state)` on the result; `name` may be a call."""

    name: "str | Call"
    arguments: tuple[Any, ...] = ()
    state: Any = None


@dataclass(frozen=True)
class Persistent:
    """A persistent id, which torch writes for a tensor's storage."""

    identity: tuple[Any, ...]


@dataclass(frozen=True)
class Raw:
    """Opcodes that are copied to the pickle."""

    opcodes: bytes


def encode(value: Any) -> bytes:
    """Return opcodes of protocol 2 (and BINBYTES) that push the value."""
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    return ENCODERS[type(value)](value)


def _encode_name(name: Name) -> bytes:
    module, attribute = name.dotted.rsplit(".", 1)
    return f"c{module}\n{attribute}\n".encode()


def _encode_call(call: Call) -> bytes:
    callee = encode(Name(call.name) if isinstance(call.name, str) else call.name)
    state = encode(call.state) + b"b" if call.state is not None else b""
    return callee + encode(call.arguments) + b"R" + state


ENCODERS: dict[type, Callable[[Any], bytes]] = {
    int: lambda number: b"J" + struct.pack("<i", number),
    float: lambda number: b"G" + struct.pack(">d", number),
    str: lambda text: b"X" + struct.pack("<I", len(text.encode())) + text.encode(),
    bytes: lambda octets: b"B" + struct.pack("<I", len(octets)) + octets,
    list: lambda items: b"](" + b"".join(map(encode, items)) + b"e",
    tuple: lambda items: b"(" + b"".join(map(encode, items)) + b"t",
    dict: lambda pairs: b"}(" + b"".join(encode(k) + encode(v) for k, v in pairs.items()) + b"u",
    Name: _encode_name,
    Call: _encode_call,
    Persistent: lambda storage: encode(storage.identity) + b"Q",
    Raw: lambda raw: raw.opcodes,
}


def program(content: Any) -> bytes:
    """Return a complete pickle."""
    return b"\x80\x02" + encode(content) + b"."


def write_archive(path: Path, pickled: bytes, storages: dict[str, bytes] | None = None) -> Path:
    """Write a torch.save archive around a pickle, with correct checksums."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, content in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", content)
    return path
