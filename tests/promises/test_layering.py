"""Import rules: direction of imports, modules without torch, no side effects of imports."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGES = ("models", "utils", "data")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SCRIPTS = ("train", "val", "detect", "export", "hubconf")

FLOOR = frozenset({"errors", "files"})
ALLOWED: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "boxes": frozenset(),
    "files": frozenset({"errors"}),
    "hyp": FLOOR,
    "history": frozenset({"files"}),
    "runtime": frozenset({"errors"}),
    "data.street_scenes": frozenset({"errors"}),
    "models": FLOOR | {"boxes", "hyp", "runtime"},
    "datasets": FLOOR | {"hyp", "data.street_scenes"},
    "solver": frozenset({"errors", "history"}),
    "checkpoint": FLOOR | {"history"},
    "autoanchor": frozenset({"errors", "models", "datasets"}),
    "options": frozenset({"errors", "solver"}),
    "upstream": FLOOR | {"hyp", "history", "models", "solver", "checkpoint", "options"},
    "weights": FLOOR | {"models", "checkpoint", "upstream"},
    "plots": frozenset({"history", "datasets", "solver"}),
    "runs": FLOOR | {"history", "hyp", "solver", "checkpoint", "options", "upstream", "plots"},
    "inference": FLOOR | {"boxes", "models", "datasets", "weights", "plots", "runs"},
    "export": FLOOR
    | {"boxes", "models", "datasets", "upstream", "inference", "data.street_scenes"},
    "evaluation": FLOOR | {"boxes", "runtime", "models", "datasets", "plots"},
    "training": FLOOR
    | {"history", "runtime", "models", "datasets", "solver", "checkpoint", "autoanchor"}
    | {"options", "upstream", "weights", "plots", "evaluation", "runs"},
    "tools.check": FLOOR
    | {"hyp", "models", "datasets", "autoanchor", "options", "weights", "plots"},
    "tools.convert": FLOOR | {"datasets", "options"},
    "tools.inspect": frozenset({"errors", "solver", "checkpoint", "options", "upstream"}),
    "tools.compare": FLOOR | {"history", "solver", "checkpoint", "options", "upstream", "plots"},
    "tools.miss_rate": frozenset({"evaluation", "options"}),
}
"""All packages that each package may import, lowest first: only packages above it in this dict.

The scripts may import any package; no package imports a script or a tool.
"""

WITHOUT_TORCH = (
    "detect",
    "export",
    "train",
    "val",
    "data.street_scenes.make",
    "hubconf",
    "models.anchors",
    "models.spec",
    "utils.autoanchor",
    "utils.checkpoint.format",
    "utils.checkpoint.pickle_records",
    "utils.checkpoint.zip_members",
    "utils.datasets.augment",
    "utils.datasets.description",
    "utils.datasets.ignore_regions",
    "utils.datasets.index",
    "utils.datasets.letterbox",
    "utils.evaluation.curves",
    "utils.evaluation.metrics",
    "utils.evaluation.miss_rate",
    "utils.files.atomic_write",
    "utils.files.download",
    "utils.history",
    "utils.hyp",
    "utils.options.arguments",
    "utils.options.detect_options",
    "utils.options.export_options",
    "utils.options.option",
    "utils.options.parser",
    "utils.options.script",
    "utils.options.train_options",
    "utils.options.val_options",
    "utils.plots.panels",
    "utils.plots.plan_curves",
    "utils.plots.run_curves",
    "utils.runs.plan_preview",
    "utils.solver.continuation",
    "utils.solver.guard",
    "utils.solver.modes",
    "utils.solver.optimizers",
    "utils.solver.plan_forensics",
    "utils.solver.preview",
    "utils.solver.schedule",
    "utils.solver.seam",
    "utils.tools.check.__main__",
    "utils.tools.check.inspection",
    "utils.tools.compare.__main__",
    "utils.tools.compare.plot",
    "utils.tools.convert.__main__",
    "utils.tools.inspect.__main__",
    "utils.tools.miss_rate",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every import of a file, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written from the root"
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def package_of(name: str) -> str:
    """The key of `ALLOWED` for a module of this project, or the name of a script."""
    top, *inner = name.split(".")
    if top == "utils":
        return ".".join(inner[:2] if inner[0] == "tools" else inner[:1])
    return "data.street_scenes" if top == "data" else top


def imported_packages(package: str) -> Iterator[tuple[str, str]]:
    """Packages of this project that a package imports, each with file and line."""
    modules = {module_name(path) for path in SOURCES} | {*SCRIPTS}
    roots = {*PACKAGES, "utils.tools"}
    for path in SOURCES:
        if module_name(path) in roots or package_of(module_name(path)) != package:
            continue
        for line, name in imported_modules(path):
            if name in modules - roots and package_of(name) != package:
                yield package_of(name), f"{path.relative_to(ROOT)}:{line} imports {name}"


def test_every_package_is_listed() -> None:
    found = {module_name(path) for path in SOURCES} - {*PACKAGES, "utils.tools"}
    assert {package_of(name) for name in found} == set(ALLOWED)


def test_allowed_imports_point_down_only() -> None:
    """So packages have no circular imports either."""
    order = list(ALLOWED)
    upwards = [
        f"{package} -> {other}"
        for package, others in ALLOWED.items()
        for other in others
        if other not in order[: order.index(package)] or other.startswith("tools")
    ]
    assert upwards == []


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_is_allowed(package: str) -> None:
    found = list(imported_packages(package))
    assert [where for other, where in found if other not in ALLOWED[package]] == []
    unused = ALLOWED[package] - {other for other, _ in found}
    assert unused == set(), "allowed, but not imported"


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_imports_no_torch(name: str) -> None:
    """In a separate process, so that indirect imports count too."""
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
def test_package_files_contain_only_a_docstring(path: Path) -> None:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)
    assert len(body) <= 1


# Global state that an import could change. Libraries are imported first, so that only changes by
# this project are found.
IMPORT_ALL = """
import contextlib, importlib, io, json, logging, os, random, sys, warnings
import cv2, matplotlib, matplotlib.pyplot, numpy, pandas, seaborn, torch, torchvision, tqdm, yaml

def global_state():
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
        "plots": [matplotlib.get_backend(), repr(matplotlib.rcParams.copy())],
        "opencv threads": cv2.getNumThreads(),
        "log": [len(logging.root.handlers), len(logging.getLogger("yolo").handlers)],
        "warnings": len(warnings.filters),
        "folder": [os.getcwd(), sorted(os.listdir())],
    }

found = {}
before = global_state()
for name in json.loads(sys.argv[1]):
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        importlib.import_module(name)
    after = global_state()
    changed = [part for part in before if before[part] != after[part]]
    if changed or output.getvalue():
        found[name] = changed + [output.getvalue()]
    before = after
print(json.dumps(found))
"""


def test_importing_has_no_side_effects(tmp_path: Path) -> None:
    """No module prints, logs, uses a global rng or changes a setting when it is imported."""
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
