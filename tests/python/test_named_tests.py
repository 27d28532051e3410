"""The tables of defects and of promises are complete, and each test that they name is there."""

from __future__ import annotations

import re

import pytest
from named_tests import REPOSITORY, NamedTest, promised, read_promises, read_table

# "D04_D07_CloseAll...": the rows that a test says it holds.
_IDS = re.compile(r"\b((?:D\d\d_)+)\w+")


def test_what_the_guide_for_users_of_the_original_names_exists() -> None:
    guide = (REPOSITORY / "docs" / "using" / "coming-from-ciocpserver.md").read_text("utf-8")
    sources = [*(REPOSITORY / "cpp").rglob("*.h"), *(REPOSITORY / "cpp").rglob("*.cpp")]
    code = set(re.findall(r"\w+", "\n".join(path.read_text("utf-8") for path in sources)))
    answers = "".join(line.rsplit("|", 2)[1] for line in guide.splitlines() if "|" in line)
    named = {
        word
        for span in re.findall(r"`([^`]+)`", answers)
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


def test_every_defect_has_a_test_of_its_own() -> None:
    for row in read_table():
        assert any(row.id in test.name.split("_") for test in row.tests), row.id


def test_every_test_that_carries_an_id_is_named_in_its_rows() -> None:
    named = {(row.id, test) for row in read_table() for test in row.tests}
    folder = REPOSITORY / "tests" / "cpp"
    carried = {
        (row_id, NamedTest(path.relative_to(folder).as_posix(), match[0]))
        for path in folder.rglob("*.cpp")
        for line in re.findall(r"^TEST(?:_F|_P)?\(\w+, (\w+)\)", path.read_text("utf-8"), re.M)
        if (match := _IDS.fullmatch(line)) is not None
        for row_id in match[1].rstrip("_").split("_")
    }
    assert carried, "there are no such tests at all"
    assert carried - named == set()
    # And no test stands in a row that is not its own.
    assert {entry for entry in named if _IDS.fullmatch(entry[1].name)} - carried == set()


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
