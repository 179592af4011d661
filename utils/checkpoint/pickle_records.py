"""Reads a pickle as a description: what it would call is recorded, nothing is called.

A pickle is a program for a small stack machine, and Python's own machine runs it. This one knows
only the opcodes that plain data and pickled modules need, turns every call into a `Record`
and checks every imported name against an allow-list. No class or function named in the file is ever
looked up.
"""

from __future__ import annotations

import contextlib
import io
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from utils.errors import UserError

MAX_PROGRAM = 16 * 1024 * 1024  # bytes; a YOLOv5x6 with Adam and 1,000 epochs has 0.65 MB
MAX_STEPS = 1_000_000  # 160,000 for the same; two seconds at the most
MAX_KEY = 2**63  # integers that share a hash are further apart; many such keys take for ever
MAX_NAME_LENGTH = 100
MAX_SET = 16  # non-persistent buffers of a module; a list could be made a set again and again
DAMAGE = (LookupError, TypeError, ValueError, ArithmeticError)  # what nonsense in a file runs into

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
class Name:
    """A class or function the file mentions; only its dotted name."""

    qualified: str


@dataclass(eq=False, slots=True)
class Record:
    """A call the file asks for, not made: `kind(*arguments)`, then its `__setstate__(state)`."""

    kind: str
    arguments: tuple[Any, ...]
    state: Any = None


class _Machine:
    """The stack, marks and memo of a pickle; a method per opcode that does more than push."""

    def __init__(self, check_name: Callable[[str], None]) -> None:
        self.check_name = check_name
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.steps: dict[str, Callable[[Any], None]] = {
            "MARK": self.mark,
            "TUPLE": self.make_tuple,
            "BINPUT": self.remember,
            "LONG_BINPUT": self.remember,
            "MEMOIZE": lambda _: self.remember(len(self.memo)),
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
            "BINPERSID": lambda _: self.stack.append(Record("storage", self.stack.pop())),
        }

    @property
    def opcodes(self) -> frozenset[str]:
        """All that it knows."""
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
        items = tuple(self.since_mark())  # first: it changes which list the stack is
        self.stack.append(items)

    def remember(self, key: int) -> None:
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
        self.stack.append(Name(qualified))

    def call(self, _: object) -> None:
        arguments = require_type(self.stack.pop(), tuple)
        kind = require_type(self.stack.pop(), Name).qualified
        if kind == "collections.OrderedDict" and not arguments:
            self.stack.append({})  # its items follow
        elif kind in {"builtins.set", "__builtin__.set"}:
            items = require_type(arguments[0], list)[: MAX_SET + 1]
            if len(items) > MAX_SET:
                raise ValueError("a set too large for its purpose")
            self.stack.append(set(map(_scalar, items)))
        else:
            self.stack.append(Record(kind, arguments))

    def build(self, _: object) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], dict):
            return  # attributes of an OrderedDict, such as the metadata of a state dict
        require_type(self.stack[-1], Record).state = state


def require_type(value: object, kind: type[T]) -> T:
    """The value, if it is of the kind.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} where {kind.__name__} is due")
    return value


def _scalar(key: object) -> Scalar:
    """A key that hashes in constant time: nested shared tuples would hash exponentially."""
    if isinstance(key, int) and abs(key) >= MAX_KEY:
        raise ValueError("a number as large as this as a key")
    if key is None or isinstance(key, str | int | float | bytes | bool):
        return key
    raise TypeError(f"{type(key).__name__} as a key")


def read_records(program: bytes, check_name: Callable[[str], None]) -> object:
    """The object a pickle describes: plain containers and scalars, `Name`s and `Record`s.

    The work is linear in the length of the program and nothing is allocated beyond what it spells
    out. The result may hold cycles and shared parts; whoever walks it bounds depth and steps.

    Args:
        program: the pickle.
        check_name: raises a UserError for a dotted name that the file may not mention.

    Raises:
        UserError: a name or an opcode is refused, or the program is damaged.
    """
    if len(program) > MAX_PROGRAM:
        raise UserError(
            f"describes itself in {len(program)} bytes of pickle, more than any checkpoint."
        )
    machine = _Machine(check_name)
    try:
        for opcode, argument in _opcodes(program, machine.opcodes):
            if opcode == STOP:
                return machine.stack.pop()
            machine.step(opcode, argument)
    except DAMAGE as error:
        raise UserError(f"is damaged: its pickle does not parse ({str(error)[:100]}).") from error
    raise UserError("is damaged: its pickle has no end.")


def refused_name(name: str) -> UserError:
    """What to tell of a class or function that a file may not mention."""
    shown = ascii(name)[1:-1][:MAX_NAME_LENGTH]  # a hostile name may hold control characters
    return UserError(f"asks for {shown}; refused, a checkpoint has no use for it.")


def imported_names(program: bytes) -> Iterator[str]:
    """Dotted names in a torch.save pickle (protocol 2), up to where it is damaged; no check."""
    known = _Machine(lambda _: None).opcodes
    with contextlib.suppress(ValueError, UserError):
        for opcode, argument in _opcodes(program[:MAX_PROGRAM], known):
            if opcode == GLOBAL:
                yield ".".join(argument)
            elif opcode == STOP:
                return


def _opcodes(program: bytes, known: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """Opcodes and their arguments, of which those that are not known are not even decoded."""
    stream = io.BytesIO(program)
    for _ in range(MAX_STEPS):
        code = stream.read(1)
        if code not in OPCODES:
            raise ValueError(f"unknown opcode {code!r}" if code else "it breaks off")
        name, argument = OPCODES[code].name, OPCODES[code].arg
        if name not in known:
            raise UserError(f"uses the pickle opcode {name}, which no checkpoint needs; refused.")
        if name == GLOBAL:  # pickletools would undo escapes in it
            yield name, (_line(stream), _line(stream))
        else:
            yield name, None if argument is None else argument.reader(stream)


def _line(stream: io.BytesIO) -> str:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise ValueError("a name without an end")
    return line[:-1].decode("utf-8")
