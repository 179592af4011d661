"""Reads a pickle without executing it: calls are recorded, not made.

A pickle is a program for a stack machine, which Python's `pickle` executes. The machine here knows
only the opcodes that plain data and pickled modules need. It turns every call into a
`PickleRecord` and checks every imported name against an allow-list. No class or function that the
file names is ever imported.
"""

from __future__ import annotations

import contextlib
import io
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from utils.errors import UserError

MAX_PICKLE_BYTES = 16 * 1024 * 1024  # a YOLOv5x6 with Adam and 1,000 epochs has 0.65 MB
MAX_OPCODES = 1_000_000  # 160,000 for the same model; takes at most two seconds
MAX_INT_KEY = 2**63  # larger integers can collide in hash, which makes dicts extremely slow
MAX_NAME_LENGTH = 100
MAX_SET_SIZE = 16  # for a module's non-persistent buffers; one list could fill many sets
DAMAGE_ERRORS = (LookupError, TypeError, ValueError, ArithmeticError)  # raised by damaged content

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
CONTAINERS: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
LITERALS = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
    | {"BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
)
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
NO_EFFECT = frozenset({"PROTO", "FRAME"})
GLOBAL, STOP = "GLOBAL", "STOP"
OPCODES = {info.code.encode("latin-1"): info for info in pickletools.opcodes}
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
    """Stack, marks and memo; one method for each opcode that does more than push a value."""

    def __init__(self, check_name: Callable[[str], None]) -> None:
        self.check_name = check_name
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.steps: dict[str, Callable[[Any], None]] = {
            "MARK": self.mark,
            "TUPLE": self.make_tuple,
            "BINPUT": self.memoize,
            "LONG_BINPUT": self.memoize,
            "MEMOIZE": lambda _: self.memoize(len(self.memo)),
            "BINGET": lambda key: self.stack.append(self.memo[key]),
            "LONG_BINGET": lambda key: self.stack.append(self.memo[key]),
            "SETITEM": lambda _: self.set_items([self.stack.pop(-2), self.stack.pop()]),
            "SETITEMS": lambda _: self.set_items(self.since_mark()),
            "APPEND": lambda _: self.extend([self.stack.pop()]),
            "APPENDS": lambda _: self.extend(self.since_mark()),
            GLOBAL: lambda names: self.name(*names),
            "STACK_GLOBAL": lambda _: self.name(self.stack.pop(-2), self.stack.pop()),
            "REDUCE": self.call,
            "NEWOBJ": self.call,
            "BUILD": self.build,
            "BINPERSID": lambda _: self.stack.append(PickleRecord("storage", self.stack.pop())),
        }

    @property
    def opcodes(self) -> frozenset[str]:
        """All supported opcodes."""
        simple = LITERALS | CONSTANTS.keys() | CONTAINERS.keys() | TUPLES.keys() | NO_EFFECT
        return simple | self.steps.keys() | {STOP}

    def step(self, opcode: str, argument: object) -> None:
        if opcode in self.steps:
            self.steps[opcode](argument)
        elif opcode in LITERALS:
            self.stack.append(argument)
        elif opcode in CONSTANTS:
            self.stack.append(CONSTANTS[opcode])
        elif opcode in CONTAINERS:
            self.stack.append(CONTAINERS[opcode]())
        elif opcode in TUPLES:
            self.stack[-TUPLES[opcode] :] = [tuple(self.top(TUPLES[opcode]))]

    def top(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("empty stack")
        return self.stack[-count:]

    def mark(self, _: object) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def make_tuple(self, _: object) -> None:
        items = tuple(self.since_mark())  # first, since it replaces `self.stack`
        self.stack.append(items)

    def memoize(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        target = require_type(self.stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_scalar(key)] = value

    def extend(self, items: list[Any]) -> None:
        require_type(self.stack[-1], list).extend(items)

    def name(self, module: object, attribute: object) -> None:
        qualified = f"{require_type(module, str)}.{require_type(attribute, str)}"
        self.check_name(qualified)
        self.stack.append(GlobalName(qualified))

    def call(self, _: object) -> None:
        arguments = require_type(self.stack.pop(), tuple)
        kind = require_type(self.stack.pop(), GlobalName).qualified
        if kind == "collections.OrderedDict" and not arguments:
            self.stack.append({})  # SETITEMS fills it
        elif kind in {"builtins.set", "__builtin__.set"}:
            items = require_type(arguments[0], list)[: MAX_SET_SIZE + 1]
            if len(items) > MAX_SET_SIZE:
                raise ValueError(f"a set has more than {MAX_SET_SIZE} elements")
            self.stack.append(set(map(_scalar, items)))
        else:
            self.stack.append(PickleRecord(kind, arguments))

    def build(self, _: object) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], dict):
            return  # drops attributes of an OrderedDict, such as the metadata of a state dict
        require_type(self.stack[-1], PickleRecord).state = state


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


def read_records(pickled: bytes, check_name: Callable[[str], None]) -> object:
    """Parse a pickle into plain containers, scalars, `GlobalName`s and `PickleRecord`s.

    Time and memory are linear in the length of the pickle. The result may contain cycles and shared
    objects; code that walks it must limit depth and number of steps.

    Args:
        pickled: the pickle.
        check_name: raises a UserError for a dotted name that the pickle may not reference.

    Raises:
        UserError: a name or an opcode is refused, or the pickle is damaged. The message has no
            subject; the caller puts the file name before it.
    """
    if len(pickled) > MAX_PICKLE_BYTES:
        raise UserError(
            f"has a pickle of {len(pickled)} bytes, more than the limit of {MAX_PICKLE_BYTES}; "
            "use another checkpoint."
        )
    machine = _Machine(check_name)
    try:
        for opcode, argument in _opcodes(pickled, machine.opcodes):
            if opcode == STOP:
                return machine.stack.pop()
            machine.step(opcode, argument)
    except DAMAGE_ERRORS as error:
        raise UserError(
            f"is damaged (its pickle cannot be parsed: {str(error)[:100]}); use another checkpoint."
        ) from error
    raise UserError("is damaged (its pickle has no end); use another checkpoint.")


def forbidden_name_error(name: str) -> UserError:
    """Return the error for a class or function that a checkpoint may not reference."""
    shown = ascii(name)[1:-1][:MAX_NAME_LENGTH]  # a hostile name may hold control characters
    return UserError(
        f"references {shown}, which no checkpoint needs and which may run code; "
        "use a checkpoint from a source that you trust."
    )


def imported_names(pickled: bytes) -> Iterator[str]:
    """Yield the dotted names in a torch.save pickle (protocol 2) up to any damage, unchecked."""
    known = _Machine(lambda _: None).opcodes
    with contextlib.suppress(ValueError, UserError):
        for opcode, argument in _opcodes(pickled[:MAX_PICKLE_BYTES], known):
            if opcode == GLOBAL:
                yield ".".join(argument)
            elif opcode == STOP:
                return


def _opcodes(pickled: bytes, known: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """Yield opcodes and their arguments; refuse an unsupported opcode before decoding it."""
    stream = io.BytesIO(pickled)
    for _ in range(MAX_OPCODES):
        code = stream.read(1)
        if code not in OPCODES:
            raise ValueError(f"unknown opcode {code!r}" if code else "unexpected end of data")
        name, argument = OPCODES[code].name, OPCODES[code].arg
        if name not in known:
            raise UserError(
                f"uses the pickle opcode {name}, which no checkpoint needs; "
                "use a checkpoint from a source that you trust."
            )
        if name == GLOBAL:  # pickletools would decode escape sequences in the names
            yield name, (_line(stream), _line(stream))
        else:
            yield name, None if argument is None else argument.reader(stream)


def _line(stream: io.BytesIO) -> str:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise ValueError("a name has no end")
    return line[:-1].decode("utf-8")
