"""The documents: what they link to exists, and the programs in them run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import REPOSITORY, Serve

import iocp_bind

DOCUMENTS = [
    *REPOSITORY.glob("*.md"),
    *(REPOSITORY / "docs").rglob("*.md"),
    REPOSITORY / "bench" / "README.md",
]
GUIDE = REPOSITORY / "docs" / "using" / "guide.md"


def _links(document: Path) -> list[str]:
    """Links to other files and sections of this repository."""
    found = re.findall(r"\]\(([^)\s]+)\)", document.read_text("utf-8"))
    return [link for link in found if "://" not in link]


def _anchors(document: Path) -> set[str]:
    """The headings of a document, as links name them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_what_is_linked_exists(document: Path) -> None:
    for link in _links(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target), link


def test_the_programs_of_the_library_are_parts_of_the_examples() -> None:
    """The examples are built and run as tests of C++."""
    text = (REPOSITORY / "docs" / "using" / "cpp.md").read_text("utf-8")
    blocks = re.findall(r"```cpp\n(.*?)```", text, re.DOTALL)
    examples = [file.read_text("utf-8") for file in (REPOSITORY / "examples").glob("*.cpp")]
    assert blocks
    for block in blocks:
        assert any(block in example for example in examples), block


def _programs() -> list[str]:
    return re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(len(_programs())))
def test_the_servers_of_the_guide_can_be_started(serve: Serve, number: int) -> None:
    namespace: dict[str, object] = {}
    exec(compile(_programs()[number], GUIDE.name, "exec"), namespace)
    servers = [
        value
        for value in namespace.values()
        if isinstance(value, type) and issubclass(value, iocp_bind.Server)
    ]
    assert servers
    for server in servers:
        serve(server())
