"""Words that had to be read twice stay out of the code, its messages and its documentation.

This project was once written in a dialect of its own ("told", "anew", "judged", "at hand"), which
engineers whose second language is English could not search for or had to read twice. The list is
short on purpose: each of its words has a standard one beside it.
"""

import re
from pathlib import Path

import pytest

from tests.paths import ROOT

STANDARD = {
    "anew": "again, from scratch",
    "afresh": "again, from scratch",
    "nonetheless": "anyway",
    "for want of": "because there is no",
    "at hand": "available",
    "be it": "whether",
    "judge": "evaluate",
    "judged": "evaluated",
    "judges": "evaluates",
    "judgement": "result",
    "told": "reported, logged, given",
    "tell": "report, log, show",
    "tells": "reports, logs, shows",
    "goes on": "continues, resumes",
    "gone on": "continued, resumed",
    "taken along": "imported",
}
WORDS = re.compile(rf"(?<!\.)\b({'|'.join(STANDARD)})\b", re.IGNORECASE)
SUFFIXES = frozenset((".py", ".md", ".yaml", ".toml"))


def texts() -> list[Path]:
    """All code and documentation: the files in the root and in the project's own folders."""
    folders = ("models", "utils", "data", "hyp", "tests", "benchmarks", "docs")
    found = [*ROOT.glob("*.*"), *(file for name in folders for file in (ROOT / name).rglob("*"))]
    texts = [file for file in found if file.suffix in SUFFIXES and file != Path(__file__)]
    return [ROOT / "Makefile", *texts]


def test_words_that_have_a_standard_one_are_not_used() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{number}: {match[0]!r}; say {STANDARD[match[0].lower()]}"
        for file in texts()
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        for match in WORDS.finditer(line)
    ]
    assert found == []


@pytest.mark.parametrize("line", ["# judged by mAP", "It is computed anew.", "goes on as before"])
def test_a_line_with_such_a_word_is_found(line: str) -> None:
    assert WORDS.search(line)
