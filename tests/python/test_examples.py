"""The programs in examples/, as a reader would run them."""

from __future__ import annotations

import hashlib
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import (
    REPOSITORY,
    Address,
    Child,
    ask,
    linux_only,
    open_client,
    pattern,
    recv_exact,
    recv_to_end,
    saw_end,
    saw_reset,
)

EXAMPLES = REPOSITORY / "examples"

pytestmark = linux_only


@contextmanager
def _running(name: str, backend: str) -> Iterator[Address]:
    """Run an example, then end it with Ctrl-C: cleanly, at once, with nothing but its log."""
    with _process(name, backend) as (_, address):
        yield address


@contextmanager
def _process(name: str, backend: str) -> Iterator[tuple[Child, Address]]:
    """Do the same; other lines of its log must be read from it."""
    command = [sys.executable, str(EXAMPLES / name), "--port", "0"]
    with Child(command, log_is_output=True, IOCP_BIND_BACKEND=backend) as child:
        host, port = child.listening()
        yield child, (host, port)
        child.process.send_signal(signal.SIGINT)
        done = child.finish()
        assert done.code == 0
        assert done.stdout.startswith("INFO:iocp_bind:")
        assert done.stdout.endswith(f" has stopped on {host}:{port} with {backend}")
        assert len(done.stdout.splitlines()) == 1
        assert done.seconds < 2


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "echo.py",
        "chat.py",
        "speak_first.py",
        "upload.py",
        "adder.py",
        "gateway.py",
        "varint_echo.py",
        # test_tls_programs.py
        "tls_echo.py",
        # test_example_keyvalue.py
        "keyvalue.py",
        "expiring.py",
        "resp.py",
    }


def test_echo(backend: str) -> None:
    with _running("echo.py", backend) as address, open_client(address) as client:
        assert ask(client, b"hello") == b"hello"


def _line(client: object) -> bytes:
    return client.readline()  # type: ignore[attr-defined, no-any-return]


def test_chat(backend: str) -> None:
    with (
        _running("chat.py", backend) as address,
        open_client(address) as a,
        a.makefile("rb") as from_a,
    ):
        assert b"welcome" in _line(from_a)
        with open_client(address) as b, b.makefile("rb") as from_b:
            assert b"welcome" in _line(from_b)
            assert b"came" in _line(from_a)
            a.sendall(b"hel")
            a.sendall(b"lo\nsecond li")
            a.sendall(b"ne\r\n")
            assert _line(from_b).endswith(b": hello\r\n")
            assert _line(from_b).endswith(b": second line\r\n")
            # The longest line, and one with a part of an end at its end.
            a.sendall(b"x" * 4096 + b"\r\n" + b"odd\r\r\n")
            assert _line(from_b).endswith(b": " + b"x" * 4096 + b"\r\n")
            assert _line(from_b).endswith(b": odd\r\r\n")
            b.sendall(b"and back\n")
            assert _line(from_a).endswith(b": and back\r\n")
        assert b"left" in _line(from_a)
        # A line that never ends is the end.
        a.sendall(bytes(10_000))
        assert saw_end(a)


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


def test_gateway(backend: str) -> None:
    with _process("gateway.py", backend) as (child, address):
        assert child.process.stdin is not None
        with open_client(address) as alarm, open_client(address) as meter:
            for client, name in [(alarm, b"alarm-7"), (meter, b"meter-1")]:
                frame = _framed(name)
                client.sendall(frame[:3])
                client.sendall(frame[3:])
                assert recv_exact(client, 9) == _framed(b"welcome")
            alarm.sendall(_framed(b"smoke") + _framed(b"fire"))
            assert child.line().endswith("alarm-7 reports smoke")
            assert child.line().endswith("alarm-7 reports fire")
            child.process.stdin.write("nobody stop\nmeter-1 read now\n")
            child.process.stdin.flush()
            assert "there is no device nobody" in child.line()
            assert recv_exact(meter, 10) == _framed(b"read now")
            # The same device once more: the old connection goes.
            with open_client(address) as again:
                again.sendall(_framed(b"meter-1"))
                assert recv_exact(again, 9) == _framed(b"welcome")
                assert saw_reset(meter)
                child.process.stdin.write("meter-1 reset\n")
                child.process.stdin.flush()
                assert recv_exact(again, 7) == _framed(b"reset")
            assert child.line().endswith("meter-1 has gone: PEER_CLOSED")
        assert child.line().endswith("alarm-7 has gone: PEER_CLOSED")


def test_adder(backend: str) -> None:
    with _running("adder.py", backend) as address, open_client(address) as client:
        client.sendall(b"ADD 5\r\nADD 37\nTOTAL\r\nADD\r")
        client.sendall(b"\nQUIT\r\nADD 1\r\n")
        answers = recv_to_end(client).split(b"\r\n")
        assert answers == [
            b"OK",
            b"OK",
            b"42",
            b"ERROR: ADD and a number, TOTAL, or QUIT",
            b"BYE",
            b"",
        ]


def test_varint_echo(backend: str) -> None:
    with _running("varint_echo.py", backend) as address, open_client(address) as client:
        large = pattern(100_000)
        stream = b"\x00" + b"\x05hello" + b"\xa0\x8d\x06" + large
        assert ask(client, stream) == stream


def test_speak_first(backend: str) -> None:
    with _running("speak_first.py", backend) as address:
        for _ in range(3):
            with open_client(address) as client:
                answer = recv_to_end(client)
                assert answer.endswith(b"\r\n")
                assert len(answer) > 10


def test_upload(backend: str) -> None:
    with _running("upload.py", backend) as address:
        for size in (0, 1, 1_000_000):
            upload = pattern(size)
            with open_client(address) as client:
                client.sendall(upload)
                client.shutdown(socket.SHUT_WR)
                digest = hashlib.sha256(upload).hexdigest()
                assert recv_to_end(client) == f"{digest}  {size} bytes\n".encode()


def test_examples_are_short() -> None:
    """They are to be read."""
    for path in EXAMPLES.glob("*.py"):
        text = Path(path).read_text()
        assert text.startswith('"""'), path.name
        longest = 200 if path.name == "keyvalue.py" else 100
        assert len(text.splitlines()) < longest, path.name


# The program says where it is to listen; a test must not, and has to know.
ON_ANY_PORT = """
import sys, iocp_bind
start = iocp_bind.Server.start
def start_on_any_port(self, host, port):
    start(self, host, 0)
    print("listening on {}:{}".format(*self.address), flush=True)
iocp_bind.Server.start = start_on_any_port
exec(compile(sys.argv[1], "README.md", "exec"))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_program_of_the_readme_ends_cleanly(backend: str, number: signal.Signals) -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    program = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert program is not None
    assert len([line for line in program[1].splitlines() if line]) <= 10
    command = [sys.executable, "-c", ON_ANY_PORT, program[1]]
    with (
        Child(command, IOCP_BIND_BACKEND=backend) as child,
        open_client(child.listening()) as client,
    ):
        assert ask(client, b"hello") == b"hello"
        child.process.send_signal(number)
        assert saw_end(client)
        client.close()
        done = child.finish()
    assert (done.code, done.stdout, done.stderr) == (0, "", "")
    assert done.seconds < 2
