"""The libraries that the native module needs where it runs."""

from __future__ import annotations

import re
import subprocess

import pytest
from support import linux_only

import iocp_bind
from iocp_bind import _core


def _tool(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip(f"needs {command[0]}, of binutils")


@linux_only
def test_liburing_need_not_be_installed_where_it_runs() -> None:
    if iocp_bind.backends()["io_uring"].reason.startswith("not compiled in"):
        pytest.skip("built without io_uring")
    path = _core.__file__
    assert path is not None
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", _tool("readelf", "--dynamic", path))
    assert any(library.startswith("libc.") for library in needed)
    assert [library for library in needed if "uring" in library] == []
    # Nor does it use, or stand in for, one that another module has loaded.
    assert "io_uring_queue_init" not in _tool("nm", "--dynamic", path)
