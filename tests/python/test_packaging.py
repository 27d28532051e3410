"""The tools that a build of the package needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import REPOSITORY, linux_only, run_script


@linux_only
def test_a_cmake_that_is_too_old_is_replaced(tmp_path: Path) -> None:
    """By one from the package index; the one of Ubuntu 22.04 is older than what we need."""
    pytest.importorskip("scikit_build_core")
    needed = re.search(
        r"cmake_minimum_required\(VERSION ([0-9.]+)\.\.\.",
        (REPOSITORY / "CMakeLists.txt").read_text("utf-8"),
    )
    assert needed is not None
    old = tmp_path / "cmake"
    old.write_text('#!/bin/sh\necho \'{"version":{"string":"3.22.1"}}\'\n')
    old.chmod(0o755)
    done = run_script(
        "import os, sys; os.chdir(sys.argv[1])\n"
        "from scikit_build_core.build import get_requires_for_build_wheel\n"
        "print(get_requires_for_build_wheel())",
        str(REPOSITORY),
        PATH=str(tmp_path),
    )
    assert f"cmake>={needed[1]}" in done.stdout, done.stderr
