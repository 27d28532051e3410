"""The servers of bench/: each cuts messages where they end, and echoes over TLS."""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support import (
    REPOSITORY,
    Address,
    Child,
    linux_only,
    open_client,
    pattern,
    recv_exact,
    recv_to_end,
)

SERVERS = REPOSITORY / "bench" / "servers"
PROGRAMS = {
    "on_messages": ["echo_iocp_bind.py"],
    "on_message": ["echo_iocp_bind.py", "--one-by-one"],
    "asyncio": ["echo_asyncio.py"],
    "uvloop": ["echo_uvloop.py"],
    "twisted": ["echo_twisted.py"],
}
CASES = [(name, hook) for name in PROGRAMS for hook in ("length-prefix", "lines")]
PROGRAMS["streams"] = ["echo_streams.py"]
CASES.append(("streams", "lines"))
SIZES = (0, 1, 64, 64, 0, 5000, 63, 10_000, 2)

pytestmark = linux_only


@contextmanager
def _running(name: str, hook: str, *more: str) -> Iterator[Address]:
    """Run a server, then end it as the bench does: cleanly, with nothing on its stderr."""
    program, *options = PROGRAMS[name]
    with Child([sys.executable, str(SERVERS / program), *options, "--hook", hook, *more]) as child:
        yield "127.0.0.1", int(child.line_with("listening ").split()[1])
        child.process.terminate()
        done = child.finish()
        assert (done.code, done.stderr) == (0, "")


def _on_the_wire(hook: str, message: bytes) -> bytes:
    if hook == "length-prefix":
        return struct.pack(">I", len(message)) + message
    return message.replace(b"\n", b" ") + b"\n"


@pytest.mark.parametrize(("name", "hook"), CASES)
def test_messages_come_back_wherever_they_are_cut(name: str, hook: str) -> None:
    messages = [_on_the_wire(hook, pattern(size)) for size in SIZES]
    with _running(name, hook) as address, open_client(address) as client:
        for cut in range(7):
            sent = b""
            for message, following in zip(messages, [*messages[1:], b""], strict=True):
                # The reply shows that the server has cut the message from what follows.
                ahead = following[:cut]
                client.sendall(message[len(sent) :] + ahead)
                assert recv_exact(client, len(message)) == message
                sent = ahead
        together = b"".join(messages)
        client.sendall(together)
        assert recv_exact(client, len(together)) == together
        client.shutdown(socket.SHUT_WR)
        assert recv_to_end(client) == b""


@pytest.mark.parametrize("name", [name for name, hook in CASES if hook == "length-prefix"])
def test_an_announced_length_has_a_limit(name: str) -> None:
    with _running(name, "length-prefix") as address, open_client(address) as client:
        message = _on_the_wire("length-prefix", b"ok")
        client.sendall(message)
        assert recv_exact(client, len(message)) == message
        client.sendall(b"\x7f\xff\xff\xff")
        with suppress(ConnectionResetError):
            assert recv_to_end(client) == b""


@pytest.mark.parametrize("name", ["asyncio", "uvloop"])
def test_an_echo_over_tls_resumes_sessions(name: str, tmp_path: Path) -> None:
    file = tmp_path / "both.pem"
    # As bench/certificate.py does it.
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost "
        "-keyout key.pem -out chain.pem && cat chain.pem key.pem > both.pem",
        shell=True,
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(cafile=str(file))
    with _running(name, "echo", "--tls", str(file)) as address:
        with (
            open_client(address) as bare,
            context.wrap_socket(bare, server_hostname="localhost") as client,
        ):
            assert client.version() == "TLSv1.3"
            message = pattern(100_000)
            client.sendall(message)
            received = b""
            while len(received) < len(message):
                received += client.recv(65536)
            assert received == message
            session = client.session
        with (
            open_client(address) as bare,
            context.wrap_socket(bare, server_hostname="localhost", session=session) as client,
        ):
            assert client.session_reused
