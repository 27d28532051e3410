"""The types: of the package, of the examples, and of what a user writes."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY

import iocp_bind

has_mypy = importlib.util.find_spec("mypy") is not None
needs_mypy = pytest.mark.skipif(not has_mypy, reason="mypy is not installed")


def _mypy(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # From an empty directory and without the project's configuration: as a user sees it.
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", *arguments]
    command += [f"--cache-dir={where.parent / 'mypy-cache'}"]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=110, check=False, cwd=where
    )


@needs_mypy
def test_the_package_is_strict(tmp_path: Path) -> None:
    done = _mypy(tmp_path, "-p", "iocp_bind")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_mypy
def test_the_examples_are_strict(tmp_path: Path) -> None:
    done = _mypy(tmp_path, *map(str, sorted((REPOSITORY / "examples").glob("*.py"))))
    assert done.returncode == 0, done.stdout + done.stderr


USER = """
from pathlib import Path

import iocp_bind
from iocp_bind import CloseReason, Connection


class Mine(iocp_bind.Server):
    def on_connection_established(self, conn: Connection) -> None:
        conn.data = {"host": conn.remote_address[0]}

    def on_read_completed(self, conn: Connection, data: bytes) -> None:
        ok: bool = conn.send(data) and conn.writelines([data, bytearray(data)])
        reveal_type(conn.id)
        reveal_type(ok)

    def on_write_completed(self, conn: Connection, nbytes: int) -> None: ...

    def on_writable(self, conn: Connection) -> None: ...

    def on_connection_error(self, conn: Connection, error: OSError) -> None:
        print(error.errno)

    def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
        print(reason is CloseReason.PEER_CLOSED)


class Views(iocp_bind.Server[memoryview]):
    framing = iocp_bind.LengthPrefix(2, "little", offset=0, adjust=-2, strip=None, max_size=100)

    def on_read_completed(self, conn: Connection, data: memoryview) -> None:
        conn.send(data)

    def on_message(self, conn: Connection, message: memoryview) -> None:
        ok: bool = conn.send_message(message)
        reveal_type(conn.framing)


class Lines(iocp_bind.Server):
    framing = iocp_bind.Delimiter(b"\\r\\n", b"\\n", keep=False)

    def on_messages(self, conn: Connection, messages: list[bytes]) -> None:
        conn.send_messages(messages)
        conn.send_messages(message.upper() for message in messages)
        conn.framing = None
        conn.framing = iocp_bind.VarintPrefix()

    def on_connection_error(self, conn: Connection, error: OSError) -> None:
        if isinstance(error, iocp_bind.FrameError):
            reveal_type(error.announced)


Lines().start(framing=iocp_bind.Netstring(), message_timeout=1.5)
Lines().run(framing=None)
reveal_type(Lines().broadcast_message(b"x", None, to=[], on_full="close"))
base = iocp_bind.Server()
tls = iocp_bind.TLS("cert.pem", Path("key.pem"), b"x", ca="ca.pem", verify="required", alpn=["a"])
tls = iocp_bind.TLS("cert.pem", sni={"a.example": tls}, ticket_keys=[b"x" * 48], max_version="1.3")
base.start(tls=tls)
base.run(tls=None)
reveal_type(base.tls)
base.tls = tls
reveal_type(iocp_bind.TLS.client(server_name="a.example", verify=False))
reveal_type(base.stats().tls_failures[iocp_bind.TLSFailure.TIMEOUT])
reveal_type(iocp_bind.tls_library().version)
data, views = b"", memoryview(b"")
for each in base.connections():
    each.start_tls(tls)
    reveal_type(each.tls)
    assert each.tls is not None
    reveal_type(each.tls.peer_certificate)
    base.on_message(each, data)
    base.on_messages(each, [data])
    Views().on_messages(each, [views])

with Mine() as server:
    reveal_type(server)
    server.start("127.0.0.1", 0, backend="epoll", workers=None, idle_timeout=1.5, keepalive=(5, 1))
    reveal_type(server.address)
    reveal_type(server.connections())
    reveal_type(server.stats().closed[CloseReason.SHUTDOWN])
    server.broadcast(b"x", exclude=None, to=set(server.connections()), on_full=Connection.abort)
    server.shutdown(timeout=1)
reveal_type(iocp_bind.backends()["epoll"].available)
reveal_type(iocp_bind.__version__)
"""

MISTAKES = """
import iocp_bind

server = iocp_bind.Server()
server.start(backend="kqueue")
server.start(port="80")
server.start(max_conections=5)
server.start(at_capacity="drop")
for conn in server.connections():
    conn.send("text")
    conn.id = 5
    conn.dta = 1
server.on_read_complete
"""

# The types that each hook gets: an override that takes another one is an error.
OVERRIDES = """
import ssl

import iocp_bind
from iocp_bind import Connection, Server


class Bytes(Server):
    def on_read_completed(self, conn: Connection, data: bytes) -> None: ...
    def on_message(self, conn: Connection, message: bytes) -> None: ...
    def on_messages(self, conn: Connection, messages: list[bytes]) -> None: ...


class Views(Server[memoryview]):
    def on_read_completed(self, conn: Connection, data: memoryview) -> None: ...
    def on_message(self, conn: Connection, message: memoryview) -> None: ...
    def on_messages(self, conn: Connection, messages: list[memoryview]) -> None: ...


class Wrong(Server):
    framing = b"x"  # error
    def on_read_completed(self, conn: Connection, data: memoryview) -> None: ...  # error
    def on_message(self, conn: Connection, message: str) -> None: ...  # error
    def on_messages(self, conn: Connection, messages: list[memoryview]) -> None: ...  # error


class WrongViews(Server[memoryview]):
    def on_read_completed(self, conn: Connection, data: bytes) -> None: ...  # error
    def on_message(self, conn: Connection, message: bytes) -> None: ...  # error
    def on_messages(self, conn: Connection, messages: bytes) -> None: ...  # error


class Text(Server[str]): ...  # error


conn: Connection
conn.framing = b"x"  # error
conn.send_message("x")  # error
conn.send_messages(["x"])  # error
Bytes().start(framing=b"x")  # error
Bytes().run(framing=iocp_bind.FixedSize)  # error
iocp_bind.LengthPrefix(4, "middle")  # error
iocp_bind.LengthPrefix(4, "big", 0)  # error
iocp_bind.Delimiter("x")  # error
Bytes().broadcast_message("x")  # error
conn.tls = None  # error
conn.start_tls(ssl.create_default_context())  # error
Bytes().start(tls=ssl.create_default_context())  # error
Bytes().tls = "cert.pem"  # error
iocp_bind.TLS("cert.pem", verify=True)  # error
iocp_bind.TLS("cert.pem", min_version="1.1")  # error
iocp_bind.TLS.client("cert.pem")  # error
"""


@needs_mypy
def test_a_user_sees_the_right_types(tmp_path: Path) -> None:
    program = tmp_path / "user.py"
    program.write_text(USER)
    done = _mypy(tmp_path, str(program))
    assert done.returncode == 0, done.stdout + done.stderr
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    short = [text.replace("builtins.", "") for text in revealed]
    assert short == [
        "int",
        "bool",
        "iocp_bind._framing.Framing | None",
        "int | None",
        "int",
        "iocp_bind._tls.TLS | None",
        "iocp_bind._tls.TLS",
        "int",
        "str",
        "iocp_bind._tls.TLSInfo | None",
        "bytes | None",
        "user.Mine",
        "tuple[str, int]",
        "list[iocp_bind._core.Connection]",
        "int",
        "bool",
        "str",
    ]


@needs_mypy
def test_the_mistakes_of_a_user_are_found(tmp_path: Path) -> None:
    program = tmp_path / "mistakes.py"
    program.write_text(MISTAKES)
    done = _mypy(tmp_path, str(program))
    lines = {int(number) for number in re.findall(r"mistakes.py:(\d+): error", done.stdout)}
    assert lines == {5, 6, 7, 8, 10, 11, 12, 13}, done.stdout


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_hook_is_typed_exactly(tmp_path: Path, checker: str) -> None:
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    program = tmp_path / "overrides.py"
    program.write_text(OVERRIDES)
    if checker == "mypy":
        done = _mypy(tmp_path, str(program))
    else:
        command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(program)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=110, check=False, cwd=tmp_path
        )
    found = re.findall(r"overrides\.py:(\d+)(?::\d+)?(?: -|:) error", done.stdout)
    lines = OVERRIDES.split("\n")
    expected = {n for n, line in enumerate(lines, 1) if line.endswith("# error")}
    assert {int(number) for number in found} == expected, done.stdout


@needs_mypy
def test_the_stub_matches_the_module(tmp_path: Path) -> None:
    """stubtest compares _core.pyi with the module itself."""
    allowed = tmp_path / "allowed"
    # Only for their metaclass, which is pybind11's.
    allowed.write_text(
        "iocp_bind._core.Core\niocp_bind._core.NativeFraming\niocp_bind._core.NativeTLS\n"
    )
    command = [sys.executable, "-m", "mypy.stubtest", "iocp_bind._core"]
    command += ["--ignore-disjoint-bases", f"--allowlist={allowed}"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=110, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_is_marked_as_typed() -> None:
    assert iocp_bind.__file__
    assert (Path(iocp_bind.__file__).parent / "py.typed").exists()


def test_what_is_public_is_what_the_design_names() -> None:
    assert set(iocp_bind.__all__) == {
        "BackendInfo",
        "BackendUnavailable",
        "CloseReason",
        "Cobs",
        "Connection",
        "Delimiter",
        "FixedSize",
        "FrameError",
        "Framing",
        "LengthPrefix",
        "Netstring",
        "SendBacklogFull",
        "Server",
        "Slip",
        "Stats",
        "TLS",
        "TLSError",
        "TLSFailure",
        "TLSInfo",
        "TLSLibrary",
        "TLSTruncated",
        "TimerHandle",
        "VarintPrefix",
        "__version__",
        "backends",
        "tls_library",
    }
    assert [reason.name for reason in iocp_bind.CloseReason] == [
        "PEER_CLOSED",
        "LOCAL_CLOSE",
        "LOCAL_ABORT",
        "ERROR",
        "FIRST_DATA_TIMEOUT",
        "IDLE_TIMEOUT",
        "WRITE_TIMEOUT",
        "SHUTDOWN",
        "HOOK_ERROR",
        "RECEIVE_TIMEOUT",
        "FRAME_ERROR",
        "MESSAGE_TIMEOUT",
        "HANDSHAKE_TIMEOUT",
    ]
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", iocp_bind.__version__)


def test_what_is_public_is_documented() -> None:
    for name in iocp_bind.__all__:
        value = getattr(iocp_bind, name)
        if name == "__version__":
            continue
        assert inspect.getdoc(value), name
        if inspect.isclass(value):
            for member, thing in vars(value).items():
                documentable = callable(thing) or inspect.isdatadescriptor(thing)
                if not member.startswith("_") and documentable:
                    assert inspect.getdoc(thing), f"{name}.{member}"
