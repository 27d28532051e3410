"""This system: which it is, what it must have, and what this process takes of it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]

ON_LINUX = sys.platform == "linux"
ON_WINE = sys.platform == "win32" and hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")
linux_only = pytest.mark.skipif(not ON_LINUX, reason="needs Linux: /proc, signals or fork")
windows_only = pytest.mark.skipif(sys.platform != "win32", reason="needs Windows")


def full_load(*values: object) -> Any:
    """Parameters of a long test: only `make test-all` runs it. A quick case stands beside it."""
    return pytest.param(*values, marks=pytest.mark.slow)


# ---- The system must have these.


def uring_refusal() -> str | None:
    """Ask the kernel itself whether it lets this process use io_uring; None: it does."""
    io_uring_setup = 425  # the same number on every architecture
    libc = ctypes.CDLL(None, use_errno=True)
    parameters = (ctypes.c_char * 120)()
    descriptor = libc.syscall(io_uring_setup, 4, ctypes.byref(parameters))
    if descriptor >= 0:
        os.close(descriptor)
        return None
    code = ctypes.get_errno()
    if code in (errno.EPERM, errno.ENOSYS):
        return f"the kernel refuses io_uring: {os.strerror(code)}"
    return None


def backends_of_this_system() -> list[str]:
    return {"linux": ["io_uring", "epoll"], "win32": ["iocp"]}.get(sys.platform, [])


# ---- Measures of this process (Linux).


def resident_bytes(pid: int | str = "self") -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Rss in smaps_rollup")


def descriptor_count(pid: int | str = "self") -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def thread_count(pid: int | str = "self") -> int:
    """Threads of the process, without those that the kernel keeps for io_uring."""
    count = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            count += not (task / "comm").read_text().startswith("iou-")
    return count


def need_descriptors(count: int) -> None:
    """Raise the soft limit of descriptors to `count`, or skip the test."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"needs {count} descriptors; RLIMIT_NOFILE allows {hard}")
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
