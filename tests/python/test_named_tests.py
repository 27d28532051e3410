"""The tables of defects and of promises are complete, and each test that they name is there."""

from __future__ import annotations

import re

import pytest
from named_tests import REPOSITORY, promised, read_promises, read_table

_NUMBERED = re.compile(r"^TEST(?:_F|_P)?\(\w+, (D\d\d_\w+)\)", re.MULTILINE)


def test_names_of_the_code_in_what_users_of_the_original_read_exist() -> None:
    guide = (REPOSITORY / "docs" / "using" / "coming-from-ciocpserver.md").read_text("utf-8")
    sources = [*(REPOSITORY / "cpp").rglob("*.h"), *(REPOSITORY / "cpp").rglob("*.cpp")]
    code = set(re.findall(r"\w+", "\n".join(path.read_text("utf-8") for path in sources)))
    answers = [line.rsplit("|", 2)[1] for line in guide.splitlines() if "|" in line]
    answers += [row.now for row in read_table()]
    named = {
        word
        for span in re.findall(r"`([^`]+)`", "".join(answers))
        if re.fullmatch(r"[A-Z]\w*(::\w+)?", span)
        for word in span.split("::")
    }
    assert named - code == set()


def test_every_promise_has_a_row() -> None:
    assert promised(), "README promises nothing"
    assert [row.id for row in read_promises()] == promised()


def test_every_defect_has_a_row() -> None:
    assert [row.id for row in read_table()] == [f"D{number:02}" for number in range(1, 35)]


def test_every_test_it_names_exists() -> None:
    for row in read_table() + read_promises():
        missing = [test for test in row.tests if not test.exists]
        assert missing == [], row.id


def test_every_defect_is_held_by_a_test_of_the_library() -> None:
    for row in read_table():
        assert any(test.file.endswith(".cpp") for test in row.tests), row.id


def test_tests_are_named_by_what_they_hold_and_not_by_a_number() -> None:
    sources = (REPOSITORY / "tests" / "cpp").rglob("*.cpp")
    assert [name for path in sources for name in _NUMBERED.findall(path.read_text("utf-8"))] == []


def test_every_mutant_fits_the_code() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML")
    mutants = tomllib.loads((REPOSITORY / "tests" / "mutants.toml").read_text("utf-8"))["mutant"]
    misfits = [
        (mutant["what"], edit["file"])
        for mutant in mutants
        for edit in mutant["edit"]
        if (REPOSITORY / edit["file"]).read_text("utf-8").count(edit["old"]) != 1
    ]
    assert mutants
    assert misfits == []
