"""The table of docs/testing.md: which tests hold which row of the original's list of defects."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]

_ROW = re.compile(r"^\| (D\d\d) \| (.+) \| (.+) \|$", re.MULTILINE)
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
    """A row of the table."""

    id: str
    what: str  # must not come back
    tests: tuple[NamedTest, ...]


def read_table() -> list[Row]:
    """Read the table; a row that is not in its form is not there."""
    rows = []
    for row_id, what, cell in _ROW.findall((REPOSITORY / "docs/testing.md").read_text("utf-8")):
        files = cell.split("; ")
        matches = [match for file in files if (match := _FILE.fullmatch(file)) is not None]
        if len(matches) == len(files):
            tests = [NamedTest(m[1], name) for m in matches for name in re.findall(r"\w+", m[2])]
            rows.append(Row(row_id, what, tuple(tests)))
    return rows
