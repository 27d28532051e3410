"""The tables of documents: which tests hold which defect, and which attack which promise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
TABLES = "docs/evidence/testing.md"

_DEFECT = re.compile(r"^\| (D\d\d) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
_PROMISE = re.compile(r"^\| \*\*(.+)\*\* \| (.+) \|$", re.MULTILINE)
_PROMISED = re.compile(r"^- \*\*(.+?)\*\*", re.MULTILINE)
_FILE = re.compile(r"`([\w/]+\.(?:cpp|py))`: (`\w+`(?:, `\w+`)*)")


class NamedTest(NamedTuple):
    """A test of the tree, as the table names it."""

    file: str  # below tests/cpp or tests/python
    name: str

    @property
    def path(self) -> Path:
        """Where it is, or should be."""
        return REPOSITORY / "tests" / ("python" if self.file.endswith(".py") else "cpp") / self.file

    @property
    def exists(self) -> bool:
        """Whether the file has a test of that name."""
        if not self.path.is_file():
            return False
        kind = r"def {}\(" if self.file.endswith(".py") else r"\bTEST(?:_F|_P)?\(\w+, {}\)"
        return re.search(kind.format(self.name), self.path.read_text("utf-8")) is not None


class Row(NamedTuple):
    """A row of a table."""

    id: str  # a defect's number, or a promise's title
    tests: tuple[NamedTest, ...]
    now: str = ""  # what holds instead of the defect


def _row(row_id: str, cell: str, now: str = "") -> list[Row]:
    """The row, or none when the cell of its tests is not in its form."""
    files = cell.split("; ")
    matches = [match for file in files if (match := _FILE.fullmatch(file)) is not None]
    if len(matches) != len(files):
        return []
    tests = [NamedTest(m[1], name) for m in matches for name in re.findall(r"\w+", m[2])]
    return [Row(row_id, tuple(tests), now)]


def _read(file: str) -> str:
    return (REPOSITORY / file).read_text("utf-8")


def read_table() -> list[Row]:
    """Read the table of defects; a row that is not in its form is not there."""
    found = _DEFECT.findall(_read(TABLES))
    return [row for defect, _, now, cell in found for row in _row(defect, cell, now)]


def read_promises() -> list[Row]:
    """Read the table of promises; a row that is not in its form is not there."""
    found = _PROMISE.findall(_read(TABLES))
    return [row for title, cell in found for row in _row(title, cell)]


def promised() -> list[str]:
    """The titles of README's promises."""
    section = _read("README.md").partition("## What it promises")[2].partition("\n## ")[0]
    return _PROMISED.findall(section)
