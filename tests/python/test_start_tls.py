"""Connection.start_tls: TLS that begins on a connection without it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    DEADLINE,
    Connect,
    EachMessage,
    Recorder,
    Serve,
    ask,
    pattern,
    recv_exact,
    recv_to_end,
    saw_end,
    wait_until,
)
from support.tls import Certificates, ConnectTls, end_in_order, exchange, failures, tool

import iocp_bind
from iocp_bind import CloseReason, Connection, TLSFailure

LINES = iocp_bind.Delimiter(b"\n")


class StartTls(EachMessage):
    """Lines, as SMTP has them: STARTTLS begins TLS, everything else comes back."""

    def __init__(self, tls: object) -> None:
        super().__init__(self.handle)
        self.own_tls: Any = tls
        self.errors: list[BaseException] = []

    def handle(self, conn: Connection, messages: list[Any]) -> None:
        for message in messages:
            if message != b"STARTTLS":
                conn.send_message(message)
                continue
            try:
                conn.start_tls(self.own_tls)
            except Exception as error:
                self.errors.append(error)
                conn.close()


def test_the_connection_goes_on_in_tls(
    serve: Serve, certificates: Certificates, connect: Connect, connect_tls: ConnectTls
) -> None:
    class Server(StartTls):
        def on_message(self, conn: Connection, message: Any) -> None:
            if message == b"STARTTLS":
                conn.send(b"go\n")
            super().on_message(conn, message)
            if message == b"STARTTLS":
                assert conn.tls is None, "the handshake is not done"
                conn.send(b"secret\n")

    server = serve(Server(certificates.tls()), framing=LINES)
    raw = connect(server)
    assert ask(raw, b"noop\n") == b"noop\n"
    raw.sendall(b"STARTTLS\n")
    assert recv_exact(raw, 3) == b"go\n"
    client = connect_tls(server, over=raw)
    assert recv_exact(client, 7) == b"secret\n"
    assert ask(client, b"hello\n") == b"hello\n"
    conn = server.wait_connection()
    assert conn.tls is not None
    assert conn.tls.server_name == "localhost"
    end_in_order(client)
    assert server.wait_closed(conn) is CloseReason.PEER_CLOSED
    assert len(server.of("established")) == 1
    assert server.stats().tls_handshakes == 1


@pytest.mark.parametrize("behind", [b"evil\n", b"ev"])
def test_bytes_that_came_without_tls_are_not_taken_for_it(
    serve: Serve, certificates: Certificates, connect: Connect, behind: bytes
) -> None:
    server = serve(StartTls(certificates.tls()), framing=LINES)
    client = connect(server)
    client.sendall(b"STARTTLS\n" + behind)
    assert saw_end(client)
    client.close()
    conn = server.wait_connection()
    server.wait_closed(conn)
    (error,) = server.errors
    assert type(error) is iocp_bind.TLSError
    assert "not sent in TLS" in str(error)
    assert conn.tls is None
    assert server.messages_of(conn) == [b"STARTTLS"]


def test_it_belongs_in_hooks_and_callbacks(
    serve: Serve, certificates: Certificates, connect: Connect, connect_tls: ConnectTls
) -> None:
    server = serve(StartTls(certificates.tls()), framing=LINES)
    raw = connect(server)
    conn = server.wait_connection()
    with pytest.raises(RuntimeError, match=r"start_tls\(\) can be called in hooks and callbacks"):
        conn.start_tls(server.own_tls)
    begun = threading.Event()

    def begin() -> None:
        conn.start_tls(server.own_tls)
        begun.set()

    conn.call_soon(begin)
    # A client that spoke earlier would have sent something without TLS.
    assert begun.wait(DEADLINE)
    client = connect_tls(server, over=raw)
    assert ask(client, b"hello\n") == b"hello\n"
    client.sendall(b"STARTTLS\n")
    assert recv_to_end(client) == b""
    (error,) = server.errors
    assert type(error) is RuntimeError
    assert str(error) == "the connection has TLS already"


def test_it_does_nothing_on_a_connection_that_is_closed(
    serve: Serve, certificates: Certificates, connect: Connect
) -> None:
    class Server(StartTls):
        def on_message(self, conn: Connection, message: Any) -> None:
            conn.send(b"bye")
            conn.close()
            conn.start_tls(self.own_tls)

    server = serve(Server(certificates.tls()), framing=LINES)
    client = connect(server)
    client.sendall(b"x\n")
    assert recv_to_end(client) == b"bye"
    client.close()
    assert server.wait_closed(server.wait_connection()) is CloseReason.LOCAL_CLOSE


@pytest.mark.parametrize("wrong", [None, "cert.pem", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)])
def test_it_needs_a_tls(serve: Serve, connect: Connect, wrong: object) -> None:
    server = serve(StartTls(wrong), framing=LINES)
    client = connect(server)
    client.sendall(b"STARTTLS\n")
    assert saw_end(client)
    client.close()
    server.wait_closed(server.wait_connection())
    (error,) = server.errors
    assert type(error) is TypeError
    assert "iocp_bind.TLS" in str(error)


def test_a_client_without_a_name_is_refused_at_once(serve: Serve, connect: Connect) -> None:
    server = serve(StartTls(iocp_bind.TLS.client()), framing=LINES)
    client = connect(server)
    client.sendall(b"STARTTLS\n")
    assert saw_end(client)
    client.close()
    assert server.wait_closed(server.wait_connection()) is CloseReason.LOCAL_CLOSE
    (error,) = server.errors
    assert type(error) is ValueError
    assert str(error).startswith("server_name must be given")


def test_a_handshake_that_fails_is_reported(
    serve: Serve, certificates: Certificates, connect: Connect
) -> None:
    server = serve(StartTls(certificates.tls()), framing=LINES)
    client = connect(server)
    client.sendall(b"STARTTLS\n")
    server.wait_count("message")
    conn = server.wait_connection()
    wait_until(lambda: conn.bytes_received == 9, "the first line")
    client.sendall(b"what is this, TLS?")
    assert server.wait_closed(conn) is CloseReason.ERROR
    (error,) = server.of("error")
    assert type(error.value) is iocp_bind.TLSError
    assert failures(server) == {TLSFailure.PROTOCOL: 1}


def test_a_handshake_that_takes_too_long_ends_the_connection(
    serve: Serve, certificates: Certificates, connect: Connect
) -> None:
    server = serve(StartTls(certificates.tls(handshake_timeout=0.05)), framing=LINES)
    client = connect(server)
    client.sendall(b"STARTTLS\n")
    assert saw_end(client)
    assert server.wait_closed(server.wait_connection()) is CloseReason.HANDSHAKE_TIMEOUT
    assert server.of("error") == []
    assert failures(server) == {TLSFailure.TIMEOUT: 1}
    assert server.stats().closed[CloseReason.HANDSHAKE_TIMEOUT] == 1


# ---- The part of the client: TLS.client.


class BeginsTls(Recorder):
    """Takes the client's part of the handshake with whoever connects; says hello in TLS."""

    def __init__(self, tls: iocp_bind.TLS) -> None:
        super().__init__(read=lambda conn, data: conn.send(data))
        self.own_tls = tls

    def on_connection_established(self, conn: Connection) -> None:
        super().on_connection_established(conn)
        conn.start_tls(self.own_tls)
        conn.send(b"hello\n")


def _server_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.server)
    return context


def test_the_client_of_a_handshake(
    serve: Serve, certificates: Certificates, connect: Connect
) -> None:
    context = _server_context(certificates)
    context.load_verify_locations(certificates.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["chat"])
    tls = iocp_bind.TLS.client(
        ca=certificates.ca,
        server_name="localhost",
        certfile=certificates.client.cert,
        keyfile=certificates.client.key,
        alpn=["chat"],
    )
    server = serve(BeginsTls(tls))
    with context.wrap_socket(connect(server), server_side=True) as peer:
        assert recv_exact(peer, 6) == b"hello\n"
        data = pattern(200_000)
        assert exchange(peer, data, len(data)) == data
        info = server.wait_connection().tls
        assert info is not None
        assert (info.version, info.alpn) == ("TLSv1.3", "chat")
        chain = Path(certificates.server.cert).read_text().split("-----BEGIN")
        assert info.peer_certificate == ssl.PEM_cert_to_DER_cert("-----BEGIN" + chain[1])


@pytest.mark.parametrize("mistake", ["authority", "name"])
def test_a_server_that_is_not_trusted_is_refused(
    serve: Serve, certificates: Certificates, connect: Connect, mistake: str
) -> None:
    ca = certificates.stranger.ca if mistake == "authority" else certificates.ca
    name = "localhost" if mistake == "authority" else "elsewhere.example"
    server = serve(BeginsTls(iocp_bind.TLS.client(ca=ca, server_name=name)))
    with pytest.raises(ssl.SSLError, match="ALERT"):
        _server_context(certificates).wrap_socket(connect(server), server_side=True)
    assert server.wait_closed(server.wait_connection()) is CloseReason.ERROR
    assert "certificate is refused" in str(server.of("error")[0].value)


def test_a_client_that_does_not_verify_takes_any(
    serve: Serve, certificates: Certificates, connect: Connect
) -> None:
    server = serve(BeginsTls(iocp_bind.TLS.client(verify=False)))
    with _server_context(certificates).wrap_socket(connect(server), server_side=True) as peer:
        assert recv_exact(peer, 6) == b"hello\n"


@contextlib.contextmanager
def _s_server(certificates: Certificates, *options: str) -> Iterator[int]:
    """`openssl s_server`, which sends back each line in reverse; its port."""
    command = [tool("openssl"), "s_server", "-accept", "127.0.0.1:0", "-rev", "-naccept", "1"]
    command += ["-cert", certificates.server.cert, "-key", certificates.server.key, *options]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("ACCEPT"):
                yield int(line.strip().rpartition(":")[2])
                break
    finally:
        process.kill()
        process.communicate()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(1 << 16):
            sink.sendall(part)
        sink.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_the_client_against_openssl(
    serve: Serve, certificates: Certificates, connect: Connect, version: str
) -> None:
    tls = iocp_bind.TLS.client(ca=certificates.ca, server_name="localhost")
    server = serve(BeginsTls(tls))
    server._read = None
    with _s_server(certificates, version) as port:
        ours = connect(server)
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as theirs:
            ends = (ours, theirs), (theirs, ours)
            threads = [threading.Thread(target=_pump, args=pair) for pair in ends]
            for thread in threads:
                thread.start()
            conn = server.wait_connection()
            server.wait_for(lambda: server.received(conn) == b"olleh\n", "the answer")
            conn.close()
            for thread in threads:
                thread.join(DEADLINE)
    assert server.wait_closed(conn) is CloseReason.LOCAL_CLOSE
