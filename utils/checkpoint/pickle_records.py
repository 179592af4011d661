"""Reads a pickle without executing it: calls are recorded, not made.

A pickle is a program for a stack machine. The machine here knows only the opcodes that plain data
and pickled modules need. It turns every call into a `PickleRecord` and refuses every imported name
that is not allowed. No class or function that the file names is ever imported.

Neither `pickle.Unpickler` nor `torch.load(weights_only=True)` keeps the promise that no file makes
the program hang, use up the memory or execute anything: both accept nested tuples that share their
parts as dictionary keys, and hashing 200 bytes of these takes minutes. torch also runs any codec
that a file names; `pickle` allocates gigabytes for a high memo slot.
"""

from __future__ import annotations

import contextlib
import io
import pickletools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from utils.errors import UserError

MAX_PICKLE_BYTES = 16 * 1024 * 1024  # a YOLOv5x6 with Adam and 1,000 epochs has 0.65 MB
MAX_OPCODES = 1_000_000  # 160,000 for the same model; takes at most two seconds
MAX_INT_KEY = 2**63  # larger integers can collide in hash, which makes dicts extremely slow
MAX_NAME_LENGTH = 100
DAMAGE_ERRORS = (LookupError, TypeError, ValueError, ArithmeticError)  # raised by damaged content
OPCODES = {info.code.encode("latin-1"): info for info in pickletools.opcodes}
STOP = "STOP"
T = TypeVar("T")
Scalar = str | int | float | bytes | bool | None


@dataclass(frozen=True)
class GlobalName:
    """A class or function that the pickle references, as a dotted name only."""

    qualified: str


@dataclass(eq=False, slots=True)
class PickleRecord:
    """A recorded call, never made: `kind(*arguments)`, then `__setstate__(state)` on the result."""

    kind: str
    arguments: tuple[Any, ...]
    state: Any = None


class _Machine:
    """Stack, marks and memo; `STEPS` says what each opcode does."""

    def __init__(self, is_allowed: Callable[[str], bool]) -> None:
        self.is_allowed = is_allowed
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: object) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def pop_tuple(self, length: int) -> tuple[Any, ...]:
        items = tuple(self.stack[-length:])
        del self.stack[-length:]
        if len(items) < length:
            raise IndexError("empty stack")
        return items

    def memoize(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def set_items(self, items: Sequence[Any]) -> None:
        target = require_type(self.stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_scalar(key)] = value

    def extend(self, items: list[Any]) -> None:
        require_type(self.stack[-1], list).extend(items)

    def push_name(self, module: object, attribute: object) -> None:
        name = f"{require_type(module, str)}.{require_type(attribute, str)}"
        if len(name) > MAX_NAME_LENGTH or not self.is_allowed(name):
            shown = ascii(name)[1:-1][
                :MAX_NAME_LENGTH
            ]  # a hostile name may hold control characters
            raise UserError(
                f"references {shown}, which no checkpoint needs and which may run code; "
                "use a checkpoint from a source that you trust."
            )
        self.push(GlobalName(name))

    def call(self) -> None:
        arguments = require_type(self.stack.pop(), tuple)
        kind = require_type(self.stack.pop(), GlobalName).qualified
        if kind == "collections.OrderedDict" and not arguments:
            self.push({})  # SETITEMS fills it
        else:
            self.push(PickleRecord(kind, arguments))

    def build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], dict):
            return  # drops attributes of an OrderedDict, such as the metadata of a state dict
        require_type(self.stack[-1], PickleRecord).state = state


STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _Machine.push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine.push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _Machine.push),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "MARK": lambda machine, _: machine.mark(),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.pop_tuple(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.pop_tuple(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.pop_tuple(3)),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.memoize),
    "MEMOIZE": lambda machine, _: machine.memoize(len(machine.memo)),
    **dict.fromkeys(
        ("BINGET", "LONG_BINGET"), lambda machine, key: machine.push(machine.memo[key])
    ),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop_tuple(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "GLOBAL": lambda machine, names: machine.push_name(*names),
    "STACK_GLOBAL": lambda machine, _: machine.push_name(*machine.pop_tuple(2)),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine.call()),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.push(PickleRecord("storage", machine.stack.pop())),
}


def require_type(value: object, kind: type[T]) -> T:
    """Return the value if it is an instance of `kind`.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, kind):
        raise TypeError(f"found {type(value).__name__}, expected {kind.__name__}")
    return value


def _scalar(key: object) -> Scalar:
    """Return a key that hashes in constant time; nested shared tuples take exponential time."""
    if isinstance(key, int) and abs(key) >= MAX_INT_KEY:
        raise ValueError("a dictionary key is too large an integer")
    if key is None or isinstance(key, str | int | float | bytes | bool):
        return key
    raise TypeError(f"a dictionary key is a {type(key).__name__}")


def read_records(pickled: bytes, is_allowed: Callable[[str], bool], origin: Path) -> object:
    """Parse a pickle into plain containers, scalars, `GlobalName`s and `PickleRecord`s.

    Time and memory are linear in the length of the pickle. The result may contain cycles and shared
    objects; code that walks it must limit depth and number of steps.

    Args:
        pickled: the pickle.
        is_allowed: whether the pickle may reference a dotted name.
        origin: the file, for messages.

    Raises:
        UserError: a name or an opcode is refused, or the pickle is damaged.
    """
    if len(pickled) > MAX_PICKLE_BYTES:
        raise UserError(
            f"{origin} has a pickle of {len(pickled)} bytes, more than the limit of "
            f"{MAX_PICKLE_BYTES}; use another checkpoint."
        )
    machine = _Machine(is_allowed)
    try:
        for opcode, argument in _opcodes(pickled):
            if opcode == STOP:
                return machine.stack.pop()
            STEPS[opcode](machine, argument)
    except UserError as error:
        raise UserError(f"{origin} {error}") from error
    except DAMAGE_ERRORS as error:
        raise UserError(
            f"{origin} is damaged (its pickle cannot be parsed: {str(error)[:100]}); "
            "use another checkpoint."
        ) from error
    raise UserError(f"{origin} is damaged (its pickle has no end); use another checkpoint.")


def imported_names(pickled: bytes) -> Iterator[str]:
    """Yield the dotted names in a torch.save pickle (protocol 2) up to any damage, unchecked."""
    with contextlib.suppress(ValueError, UserError):
        for opcode, argument in _opcodes(pickled[:MAX_PICKLE_BYTES]):
            if opcode == "GLOBAL":
                yield ".".join(argument)
            elif opcode == STOP:
                return


def _opcodes(pickled: bytes) -> Iterator[tuple[str, Any]]:
    """Yield opcodes and their arguments; refuse an unsupported opcode before decoding it.

    `pickletools.genops` decodes first, which may import the module of a codec.
    """
    stream = io.BytesIO(pickled)
    for _ in range(MAX_OPCODES):
        code = stream.read(1)
        if code not in OPCODES:
            raise ValueError(f"unknown opcode {code!r}" if code else "unexpected end of data")
        name, argument = OPCODES[code].name, OPCODES[code].arg
        if name not in STEPS and name != STOP:
            raise UserError(
                f"uses the pickle opcode {name}, which no checkpoint needs; "
                "use a checkpoint from a source that you trust."
            )
        if name == "GLOBAL":  # pickletools would decode escape sequences in the names
            yield name, (_line(stream), _line(stream))
        else:
            yield name, None if argument is None else argument.reader(stream)


def _line(stream: io.BytesIO) -> str:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise ValueError("a name has no end")
    return line[:-1].decode("utf-8")
