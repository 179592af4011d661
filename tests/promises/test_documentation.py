"""README and docs: every command in them parses, and every file that they link exists."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks/README.md"])
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RESULT = re.compile(r"^\| `((?:python|make) [^`]+)`", re.MULTILINE)
"""A command at the start of a table row, whose result the row gives."""
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
SHELL = (
    "python -m venv ",
    "source ",
    "pip install -r ",
    "pre-commit ",
    "bash .ci/run",
    "#",
    "for ",
)
"""Commands that are not ours."""
SCRIPT = re.compile(r"python (train|val|detect|export)\.py$|python (benchmarks/\w+)\.py$")
TORCHRUN = re.compile(r"(srun )?torchrun( --[\w-]+ \d+)* train\.py")


def commands(page: Path) -> Iterator[str]:
    """The command lines of a page, without comments and with continued lines joined."""
    text = page.read_text(encoding="utf-8")
    blocks = "".join(BLOCK.findall(text)).replace("\\\n", " ")
    for line in [*blocks.splitlines(), *RESULT.findall(text)]:
        command = line.partition(" #")[0].strip()
        if command:
            yield command


def parse(command: str) -> None:
    """Parse a command line of ours with its own parser; fails with SystemExit or AssertionError."""
    words = shlex.split(command)
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), command
        return
    if TORCHRUN.match(command):
        words = ["python", *words[words.index("train.py") :]]
    if words[:2] == ["python", "-m"]:
        name, options = words[2], words[3:]
        package = ROOT / Path(*name.split("."))
        name += ".__main__" if package.is_dir() else ""
    else:
        script = SCRIPT.match(" ".join(words[:2]))
        assert script, f"{command}: no program of ours"
        name, options = (script[1] or script[2]).replace("/", "."), words[2:]
    importlib.import_module(name).build_parser().parse_args(options)


CASES = [(page, command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize(
    ("page", "command"), CASES, ids=[f"{page.relative_to(ROOT)}: {line}" for page, line in CASES]
)
def test_commands_parse(page: Path, command: str) -> None:
    if not command.startswith(SHELL):
        parse(command)


def test_commands_are_found_and_can_fail() -> None:
    pages = {page.name for page, _ in CASES}
    assert {"README.md", "README.zh-CN.md", "extending.md", "resuming.md", "yolov5.md"} <= pages
    assert any("--batch-size 16" in command for page, command in CASES if page.name == "README.md")
    for wrong in ("python train.py --no-such-option", "make nothing", "python nothing.py"):
        with pytest.raises((SystemExit, AssertionError)):
            parse(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_linked_files_exist(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_the_readme_is_short_and_the_same_in_both_languages() -> None:
    english, chinese = (ROOT / name for name in ("README.md", "README.zh-CN.md"))
    assert len(english.read_text(encoding="utf-8").splitlines()) <= 160
    assert [*commands(english)] == [*commands(chinese)]
