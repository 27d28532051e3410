"""The protections of the compiled module, read from its file."""

from __future__ import annotations

import platform
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from support import linux_only, windows_only

from iocp_bind import _core

MODULE = Path(_core.__file__)


def _elf(*what: str) -> str:
    """The lines of `readelf`, which comes with the compiler."""
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    command = ["readelf", "--wide", *what, str(MODULE)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


@linux_only
def test_tables_of_the_linker_are_read_only() -> None:
    assert "GNU_RELRO" in _elf("--program-headers")
    assert "BIND_NOW" in _elf("--dynamic")


@linux_only
def test_no_segment_is_writable_and_executable() -> None:
    headers = _elf("--program-headers").splitlines()
    flags = {line.split()[0]: "".join(line.split()[6:-1]) for line in headers if " 0x" in line}
    assert "GNU_STACK" in flags
    assert not [name for name, flag in flags.items() if "W" in flag and "E" in flag]


@linux_only
def test_stack_frames_are_guarded() -> None:
    assert "__stack_chk_fail" in _elf("--dyn-syms")


@linux_only
def test_calls_of_the_c_library_are_checked() -> None:
    assert "_chk@" in _elf("--dyn-syms").replace("__stack_chk", "")


@linux_only
@pytest.mark.skipif(platform.machine() != "x86_64", reason="of x86-64")
def test_functions_begin_with_a_landing_pad() -> None:
    # The mark of the whole file is up to the linker, and to every library linked into it.
    code = MODULE.read_bytes()
    endbr64 = b"\xf3\x0f\x1e\xfa"
    functions = _elf("--dyn-syms").count(" FUNC ")
    assert functions > 0
    assert code.count(endbr64) > functions


@windows_only
def test_the_image_is_placed_at_random_and_its_data_never_runs() -> None:
    image = MODULE.read_bytes()
    (header,) = struct.unpack_from("<I", image, 0x3C)
    assert image[header : header + 4] == b"PE\0\0"
    (characteristics,) = struct.unpack_from("<H", image, header + 24 + 70)
    high_entropy_va, dynamic_base, nx_compat = 0x20, 0x40, 0x100
    wanted = high_entropy_va | dynamic_base | nx_compat
    assert characteristics & wanted == wanted
