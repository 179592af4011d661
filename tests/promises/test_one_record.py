"""Each mode and each optimizer is one record; no other product file contains its name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.promises.test_layering import SCRIPTS, SOURCES
from utils.solver.modes import BASE_MODE, CONTINUATIONS, FINISH_MODE
from utils.solver.optimizers import OPTIMIZER_KINDS

RECORDS = {
    "utils/solver/modes.py": {mode.name for mode in (BASE_MODE, FINISH_MODE, *CONTINUATIONS)},
    "utils/solver/optimizers.py": {
        word for kind in OPTIMIZER_KINDS for word in (kind.name, kind.buffer, kind.flag) if word
    },
}
FILES = [*SOURCES, *(ROOT / f"{script}.py" for script in SCRIPTS)]


def literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every string literal; a string that is a statement is a docstring."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in docstrings:
            continue
        if isinstance(node.value, str):
            yield node.lineno, node.value


def named_in(path: Path, names: set[str]) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    place = path.relative_to(ROOT).as_posix()
    return [f"{place}:{line} {text!r}" for line, text in literals(tree) if text in names]


@pytest.mark.parametrize("file", RECORDS)
def test_names_are_only_in_the_file_of_the_records(file: str) -> None:
    found = [where for path in FILES for where in named_in(path, RECORDS[file])]
    assert [where for where in found if not where.startswith(f"{file}:")] == []
    assert {where.split()[1].strip("'") for where in found} == RECORDS[file]


def test_literals_are_all_strings_except_docstrings() -> None:
    code = '"""hold"""\nmode: str = "rebase"\n"""restart"""\nfound = {1: "base"}[1] == "hold"'
    assert {text for _, text in literals(ast.parse(code))} == {"rebase", "base", "hold"}
