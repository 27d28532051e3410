"""The layers of the C++ code: no include points back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CPP = Path(__file__).resolve().parents[2] / "cpp"

# The rooms and headers that the files of a room may include. The ports and all below may include
# only these of the public headers (`iocp/`): operations, addresses and buffers.
FOR_PORTS = {
    "iocp/address.h",
    "iocp/backend.h",
    "iocp/buffer.h",
    "iocp/error.h",
    "iocp/keep_alive.h",
    "iocp/time.h",
}
STREAM = {"base", "stream"} | FOR_PORTS
STAGE = {*STREAM, "stage", "iocp/framing.h", "iocp/message.h"}
PORT = {*STREAM, "port"}
SESSION = {*PORT, "stage", "stage/framing", "stage/tls", "session", "iocp"}
ENGINE = {*SESSION, "engine"}
MAY_INCLUDE = {
    "iocp": {"iocp"},
    "base": {"base"},
    "stream": STREAM,
    "port": PORT,
    "port/common": {*PORT, "port/common"},
    "port/iocp": {*PORT, "port/common", "port/iocp"},
    "port/readiness": {*PORT, "port/common", "port/readiness"},
    "port/uring": {*PORT, "port/common", "port/uring"},
    "stage": STAGE,
    "stage/framing": {*STAGE, "stage/framing"},
    "stage/tls": {*STAGE, "stage/tls", "iocp/tls.h"},
    "session": SESSION,
    "engine": ENGINE,
    "compat": {"iocp", "compat"},
}
# The list of ports that are built in names them all.
LISTS_THE_PORTS = {"port/port_kinds_linux.cpp", "port/port_kinds_windows.cpp"}


def includes(file: Path) -> list[str]:
    return re.findall(r'^#include "([^"]+)"', file.read_text(encoding="utf-8"), re.MULTILINE)


def test_only_the_old_names_are_on_the_installed_headers() -> None:
    """The other rooms include what they need, in quotes, where the rules above look."""
    users = {
        file.relative_to(CPP).parts[0]
        for file in CPP.rglob("*.*")
        if file.is_file() and "#include <iocp/" in file.read_text(encoding="utf-8")
    }
    assert users == {"compat"}


def room(path: str) -> str:
    return path.rpartition("/")[0]


@pytest.mark.parametrize("name", sorted(MAY_INCLUDE))
def test_no_include_points_back(name: str) -> None:
    allowed = MAY_INCLUDE[name]
    wrong = []
    for file in sorted((CPP / name).glob("*.*")):
        here = file.relative_to(CPP).as_posix()
        for included in includes(file):
            if here in LISTS_THE_PORTS and room(included).startswith("port/"):
                continue
            if included not in allowed and room(included) not in allowed:
                wrong.append(f"{here} includes {included}")
    assert not wrong


def test_every_file_has_a_room_with_rules() -> None:
    files = [file.relative_to(CPP).as_posix() for file in CPP.rglob("*.*") if file.is_file()]
    assert {room(file) for file in files} - set(MAY_INCLUDE) <= {""}
    assert {file for file in files if room(file) == ""} == {"iocp.cpp", "iocp.h"}


def test_openssl_is_known_to_the_stage_of_tls_alone() -> None:
    """Nor do the two headers that others include of it name OpenSSL, directly or not."""
    users = {
        file.relative_to(CPP).as_posix()
        for file in CPP.rglob("*.*")
        if file.is_file() and "#include <openssl/" in file.read_text(encoding="utf-8")
    }
    assert {room(file) for file in users} == {"stage/tls"}
    for header in ("stage/tls/tls_stage.h", "stage/tls/tls_report.h"):
        included = includes(CPP / header)
        assert header not in users
        assert not [other for other in included if room(other) == "stage/tls"]


def test_includes_are_named_from_the_top() -> None:
    lost = [
        f"{file.relative_to(CPP)} includes {included}"
        for file in CPP.rglob("*.*")
        for included in includes(file)
        if not (CPP / included).is_file()
    ]
    assert not lost
