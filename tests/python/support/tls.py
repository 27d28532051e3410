"""TLS: certificates that are made for the tests, and clients of Python's `ssl`."""

from __future__ import annotations

import contextlib
import functools
import select
import shutil
import socket
import ssl
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import pytest

import iocp_bind
from iocp_bind import Server, TLSFailure
from support.certificates import STRANGER, Authority, Pair
from support.clients import Target, open_client
from support.servers import Recorder
from support.waiting import DEADLINE

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
EACH_VERSION = pytest.mark.parametrize("version", VERSIONS)
"""A test for each version of TLS, in the parameter `version`."""


def need_tls() -> None:
    """Fail where this build has no TLS."""
    library = iocp_bind.tls_library()
    if not library.available:
        pytest.fail(f"TLS must be available on this system: {library.reason}")


def tool(name: str) -> str:
    """Return the path of a program that speaks TLS."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None and sys.platform == "win32":
        pytest.skip(f"{name} is a program of Linux")
    assert path is not None, f"{name} is missing: tools/bootstrap.sh installs it"
    return path


class Certificates(Authority):
    """An authority, its certificates, and both ends of TLS that use them."""

    @functools.cached_property
    def stranger(self) -> Certificates:
        """Another authority, which nobody here trusts."""
        return Certificates(self.folder / STRANGER)

    def tls(self, *names: str, **options: Any) -> iocp_bind.TLS:
        """Make the TLS of a server; without names that for localhost."""
        return iocp_bind.TLS(*(self.issue(*names) if names else self.server), **options)

    def context(
        self,
        version: str | None = None,
        *,
        pair: Pair | None = None,
        alpn: list[str] | None = None,
    ) -> ssl.SSLContext:
        """Make a client's context, which trusts the authority; `pair`: its own certificate."""
        context = ssl.create_default_context(cafile=self.ca)
        if version is not None:
            context.minimum_version = context.maximum_version = VERSIONS[version]
        if pair is not None:
            context.load_cert_chain(*pair)
        if alpn is not None:
            context.set_alpn_protocols(alpn)
        return context


class ConnectTls(Protocol):
    """The fixture `connect_tls`: a client that has done its handshake, closed after the test.

    A stream that ends without the end of TLS raises ssl.SSLEOFError.
    """

    def __call__(
        self,
        target: Target,
        context: ssl.SSLContext | None = None,
        *,
        name: str = "localhost",
        session: ssl.SSLSession | None = None,
        over: socket.socket | None = None,
    ) -> ssl.SSLSocket: ...


def make_connect_tls(certificates: Certificates) -> Iterator[ConnectTls]:
    opened: list[ssl.SSLSocket] = []

    def make(
        target: Target,
        context: ssl.SSLContext | None = None,
        *,
        name: str = "localhost",
        session: ssl.SSLSession | None = None,
        over: socket.socket | None = None,
    ) -> ssl.SSLSocket:
        client = open_client(target) if over is None else over
        try:
            wrapped = (context or certificates.context()).wrap_socket(
                client, server_hostname=name, session=session, suppress_ragged_eofs=False
            )
        except BaseException:
            client.close()
            raise
        opened.append(wrapped)
        return wrapped

    try:
        yield make
    finally:
        for client in opened:
            client.close()


def exchange(client: ssl.SSLSocket, data: bytes, size: int) -> bytes:
    """Send `data`, and receive `size` bytes meanwhile.

    In one thread: before Python 3.13, sending and receiving at once on one SSLSocket is not safe.
    """
    got = bytearray()
    rest = memoryview(data)
    client.setblocking(False)
    try:
        while len(got) < size or rest:
            moved = False
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                count = client.send(rest[:16384]) if rest else 0
                rest = rest[count:]
                moved = count != 0
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                part = client.recv(1 << 16)
                assert part, f"the stream ended after {len(got)} of {size} bytes"
                got += part
                moved = True
            if not moved:
                ready = select.select([client], [client] if rest else [], [], DEADLINE)
                assert ready != ([], [], []), f"nothing came after {len(got)} of {size} bytes"
    finally:
        client.settimeout(DEADLINE)
    return bytes(got)


def end_in_order(client: ssl.SSLSocket) -> None:
    """End our stream in TLS, and see the server's end in TLS and then that of the connection."""
    raw = client.unwrap()
    try:
        assert raw.recv(1) == b""
    finally:
        raw.close()


def cut_off(client: ssl.SSLSocket) -> None:
    """End the stream without saying so in TLS, and see the server's end."""
    with socket.socket(fileno=client.detach()) as raw:
        raw.settimeout(DEADLINE)
        raw.shutdown(socket.SHUT_WR)
        # Tickets: with them unread it would be a reset.
        with contextlib.suppress(ConnectionResetError):
            while raw.recv(1 << 16):
                pass


def names_of(client: ssl.SSLSocket) -> set[str]:
    """Return the host names in the server's certificate."""
    shown = client.getpeercert()
    assert shown is not None
    found = shown.get("subjectAltName", ())
    return {str(value) for kind, value in found if kind == "DNS"}  # type: ignore[str-unpack]


def failures(server: Server[Any]) -> dict[TLSFailure, int]:
    """Return the handshakes that came to nothing, without the causes that did not occur."""
    return {cause: count for cause, count in server.stats().tls_failures.items() if count}


def wait_failure(server: Recorder, cause: TLSFailure, count: int = 1) -> None:
    """Wait until so many handshakes have failed: with this cause, no other, and no hook."""
    server.wait_for(lambda: failures(server) == {cause: count}, f"{count} times {cause.name}")
    server.wait_for(lambda: server.connection_count == 0, "the connections ending")
    assert server.events == []
