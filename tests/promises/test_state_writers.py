"""Only `utils.training.engine` and the methods of the state change the training state.

This checks the syntax trees of all product files. A state is identified by its annotation or by the
name `state`; names that are assigned from it, or loop over it, are tracked within one function.
"""

import ast
import dataclasses
from collections.abc import Iterator

import pytest

from tests.paths import ROOT
from tests.promises.test_layering import SCRIPTS, SOURCES
from utils.training.state import TrainingState
from utils.training.step_outcome import EpochProgress

WRITERS = {f"utils/training/{name}.py" for name in ("engine", "state")}
PRODUCT = [*SOURCES, *(ROOT / f"{script}.py" for script in SCRIPTS)]
CLASSES = (TrainingState, EpochProgress)
FIELDS = {field.name for kind in CLASSES for field in dataclasses.fields(kind)} | {"__dict__"}
NUMBERS = {
    field.name
    for kind in CLASSES
    for field in dataclasses.fields(kind)
    if field.default is not dataclasses.MISSING
}
MUTATORS = {
    *("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse"),
    *("update", "setdefault", "popitem", "add", "load_state_dict", "__setitem__", "__setattr__"),
}


class Names:
    """The names that refer to a state, or to a part of one, in one piece of code."""

    def __init__(self, code: ast.AST) -> None:
        self.states = {"state"}
        self.parts: set[str] = set()
        """Names of parts of a state."""
        for node in ast.walk(code):
            if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
                name = node.arg if isinstance(node, ast.arg) else ast.unparse(node.target)
                known = ast.unparse(node.annotation)
                self.states |= {name} if TrainingState.__name__ in known else set()
                self.parts |= {name} if EpochProgress.__name__ in known else set()
        while self.parts != (found := self.parts | set(self._taken_out(code))):
            self.parts = found

    def _taken_out(self, code: ast.AST) -> Iterator[str]:
        for node in ast.walk(code):
            match node:
                case ast.Assign(targets=[ast.Name(name)], value=value) if self._gives_part(value):
                    yield name
                case ast.NamedExpr(ast.Name(name), value) if self._gives_part(value):
                    yield name
                case ast.For(target=ast.Name(name), iter=rows) if self._gives_part(rows):
                    yield name

    def _gives_part(self, value: ast.expr) -> bool:
        match value:
            case ast.IfExp(body=body, orelse=orelse):
                return self._gives_part(body) or self._gives_part(orelse)
            case ast.BoolOp(values=values):
                return any(map(self._gives_part, values))
            case ast.Call(ast.Name("reversed" | "iter" | "next"), [argument, *_]):
                return self._gives_part(argument)
            case ast.Attribute(attr=name) if name in NUMBERS:
                return False
        return self.inside(value)

    def _is_state(self, node: ast.expr) -> bool:
        return (isinstance(node, ast.Name) and node.id in self.states) or (
            isinstance(node, ast.Attribute) and node.attr == "state"
        )

    def inside(self, node: ast.expr) -> bool:
        """Whether an expression is a field of a state, or a part of a field."""
        if isinstance(node, ast.Name):
            return node.id in self.parts
        if isinstance(node, ast.NamedExpr):
            return self.inside(node.value)
        if isinstance(node, ast.Attribute) and self._is_state(node.value):
            return node.attr in FIELDS
        return isinstance(node, ast.Attribute | ast.Subscript) and self.inside(node.value)

    def writes(self, node: ast.AST) -> bool:
        """Whether a node changes a state."""
        match node:
            case (
                ast.Attribute(ctx=ast.Store() | ast.Del())
                | ast.Subscript(ctx=ast.Store() | ast.Del())
            ):
                return self.inside(node)
            case ast.AugAssign(ast.Name(name)):  # += changes a list in place
                return name in self.parts
            case ast.Call(ast.Name("setattr" | "delattr"), [first, *_]):
                return self._is_state(first) or self.inside(first)
            case ast.Call(ast.Attribute(value, name)):
                in_place = name in MUTATORS or (name.endswith("_") and not name.startswith("_"))
                return in_place and self.inside(value)
        return False


def pieces(tree: ast.Module) -> Iterator[ast.AST]:
    """All top-level statements, functions and methods."""
    for node in tree.body:
        body = node.body if isinstance(node, ast.ClassDef) else [node]
        yield from body


def writes(source: str) -> list[int]:
    """The lines in which a program writes to a training state."""
    found = set()
    for piece in pieces(ast.parse(source)):
        names = Names(piece)
        found |= {node.lineno for node in ast.walk(piece) if names.writes(node)}  # type: ignore[attr-defined]
    return sorted(found)


def test_only_engine_and_state_write_to_the_training_state() -> None:
    found = {str(path.relative_to(ROOT)): writes(path.read_text("utf-8")) for path in PRODUCT}
    assert {file: lines for file, lines in found.items() if lines and file not in WRITERS} == {}


def test_writes_of_the_engine_are_found() -> None:
    assert len(writes((ROOT / "utils/training/engine.py").read_text("utf-8"))) > 5


@pytest.mark.parametrize(
    "line",
    [
        "state.epoch = 1",
        "state.epoch += 1",
        "state.best_fitness, state.best_epoch = 0.5, 3",
        "del state.history[-1]",
        "run.state.stopped_early = True",
        "other.epoch = 1",
        "self.state.progress.pending = 0",
        "state.history[-1]['raw'] = 0.5",
        "state.history[-1].setdefault('raw', 0.5)",
        "state.continuations[:] = []",
        "state.continuations.append({})",
        "state.progress.losses.zero_()",
        "state.ema.update(model)",
        "state.model.load_state_dict({})",
        "setattr(state, name, 1)",
        "setattr(state.progress, name, 1)",
        "row = state.history[-1] if state.history else {}; row['raw'] = 0.5",
        "rows = state.history; rows += [{}]",
        "rows = state.history; last = rows[-1]; last.update(raw=0.5)",
        "under_way = state.progress; under_way.skipped += 1",
        "under_way.skipped = 1",
        "for row in reversed(state.history): row['raw'] = 0.5",
        "(progress := state.progress).add(losses)",
        "for state.epoch in range(3): pass",
        "with open(name) as state.scaler: pass",
    ],
)
def test_every_way_to_write_is_found(line: str) -> None:
    head = "def change(other: TrainingState, under_way: EpochProgress | None) -> None:\n    "
    body = line.replace("; ", "\n    ")
    assert writes(head + body) == [1 + len(line.split("; "))]


@pytest.mark.parametrize(
    "line",
    [
        "epoch = state.epoch; epoch += 1",
        "state = {}; state['epoch'] = 1; state.update(epoch=2)",
        "row = dict(state.history[-1]); row['raw'] = 0.5",
        "rows = [*state.history]; rows.append({})",
        "optimizer.state['epoch'] = 1",
        "state.record_seam_check(0.5, None)",
        "self.epoch = state.epoch",
        "self.rows[state.epoch] = state.history",
    ],
)
def test_reads_are_not_found(line: str) -> None:
    assert writes(f"def read(self) -> None:\n    {line.replace('; ', chr(10) + '    ')}") == []
