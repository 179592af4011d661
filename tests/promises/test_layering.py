"""The shape of the code: where imports point, what needs no torch, that importing does nothing."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGES = ("models", "utils")
SCRIPTS = ("train", "val", "detect")
# Programs inside a package, which stand above all layers as the scripts do; nothing imports them.
PROGRAMS = ("utils.datasets.check.__main__",)
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# layer -> what it must not import; see "How the code is laid out" in the README
FORBIDDEN = {
    "models": (
        "utils.solver",
        "utils.datasets",
        "utils.engine",
        "utils.evaluation",
        "utils.checkpoint",
        "utils.plots",
    ),
    "utils.solver": ("utils.datasets", "utils.engine", "utils.evaluation", "utils.checkpoint"),
    "utils.datasets": (
        "models",
        "utils.solver",
        "utils.engine",
        "utils.evaluation",
        "utils.checkpoint",
    ),
    "utils.checkpoint": ("utils.engine", "utils.evaluation", "utils.datasets.dataset"),
    "utils.evaluation": ("utils.engine", "utils.solver", "utils.checkpoint"),
    "utils.plots": ("utils.engine", "utils.evaluation.evaluate", "utils.checkpoint"),
    "utils": (*SCRIPTS, *PROGRAMS),
}

WITHOUT_TORCH = (
    "train",
    "val",
    "detect",
    "models.anchors",
    "models.spec",
    "utils.checkpoint.__main__",
    "utils.checkpoint.foreign_files",
    "utils.checkpoint.format",
    "utils.checkpoint.pickle_records",
    "utils.checkpoint.zip_members",
    "utils.cli",
    "utils.config",
    "utils.datasets.augment",
    "utils.datasets.check.__main__",
    "utils.datasets.check.inspection",
    "utils.datasets.description",
    "utils.download",
    "utils.atomic_files",
    "utils.early_stopping",
    "utils.history",
    "utils.datasets.index",
    "utils.datasets.letterbox",
    "utils.datasets.synthetic",
    "utils.evaluation.metrics",
    "utils.evaluation.miss_rate",
    "utils.datasets.ignore_regions",
    "utils.datasets.truth_files",
    "utils.plots.miss_rate_curves",
    "utils.datasets.convert.__main__",
    "utils.options",
    "utils.plots.run_curves",
    "utils.command_line",
    "utils.compare",
    "utils.fitness",
    "utils.plan_report",
    "utils.plots.comparison",
    "utils.plots.plan_curves",
    "utils.solver.continuation",
    "utils.solver.guard",
    "utils.solver.outlook",
    "utils.solver.plan_forensics",
    "utils.solver.recorded_rates",
    "utils.solver.seam",
    "utils.solver.schedule",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written from the root"
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def is_inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_arrows_point_one_way(layer: str) -> None:
    names = {path: module_name(path) for path in SOURCES}
    files = [
        path
        for path, name in names.items()
        if is_inside(name, layer) and name not in (*SCRIPTS, *PROGRAMS)
    ]
    assert files
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for line, name in imported_modules(path)
        if any(is_inside(name, package) for package in FORBIDDEN[layer])
    ]
    assert broken == []


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_imports_no_torch(name: str) -> None:
    """In a process of its own, so that whatever it pulls in counts too."""
    program = f"import sys, {name}; sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{name} imports torch{done.stderr}"


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if path.name == "__init__.py"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_package_files_hold_a_docstring_only(path: Path) -> None:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)
    assert len(body) <= 1


# What importing could change behind one's back. The libraries come first: theirs is not our doing.
IMPORT_ALL = """
import contextlib, importlib, io, json, logging, os, random, sys, warnings
import cv2, matplotlib, matplotlib.pyplot, numpy, pandas, seaborn, torch, torchvision, tqdm, yaml

def world():
    return {
        "environment": dict(os.environ),
        "search path": list(sys.path),
        "random": repr(random.getstate()),
        "numpy random": repr(numpy.random.get_state(legacy=False)),
        "torch random": torch.random.get_rng_state().tolist(),
        "torch": [
            torch.get_num_threads(),
            repr(torch.get_default_dtype()),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
        ],
        "printing": [repr(numpy.get_printoptions()), repr(pandas.get_option("display.width"))],
        "pictures": [matplotlib.get_backend(), repr(matplotlib.rcParams.copy())],
        "opencv threads": cv2.getNumThreads(),
        "log": [len(logging.root.handlers), len(logging.getLogger("yolo").handlers)],
        "warnings": len(warnings.filters),
        "folder": [os.getcwd(), sorted(os.listdir())],
    }

found = {}
before = world()
for name in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        importlib.import_module(name)
    after = world()
    changed = [part for part in before if before[part] != after[part]]
    if changed or said.getvalue():
        found[name] = changed + [said.getvalue()]
    before = after
print(json.dumps(found))
"""


def test_importing_does_nothing(tmp_path: Path) -> None:
    """No module prints, logs, draws a random number or changes a setting when it is imported."""
    names = sorted({*map(module_name, SOURCES), *SCRIPTS})
    done = subprocess.run(
        [sys.executable, "-B", "-c", IMPORT_ALL, json.dumps(names)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}
    assert done.stderr == ""
